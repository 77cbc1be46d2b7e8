#pragma once
// A worker process in a simulation: the real EpochKeeper and DispatchRule, real blocks, and a step
// that computes numbers instead of activations, so that an expert that is missing, wrong or summed
// in another order changes a token. What worker/experts/ does about lost and late peers is done
// here in few words: a question that is not answered is asked of a replica, then the step is done
// again.

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "scheduler/block_pool.h"
#include "scheduler/dispatch_rule.h"
#include "scheduler/epoch_keeper.h"
#include "tests/sim/cluster_world.h"

namespace conclave::sim {

class SimWorker final : public Process {
 public:
  SimWorker(World& world, int32_t self) : Process(world.timeline), world_(world), self_(self) {}

  // A sequence a router sends: goes on behind `last`, for so many tokens.
  struct Submit {
    uint64_t request = 0;
    uint32_t attempt = 0;
    uint64_t version = 0;  // of an adapter; 0: the base model
    uint64_t last = 0;
    int32_t index = 0;  // of the first token
    int32_t tokens = 0;
  };
  // Rows asked of an owner, and its answer.
  struct Frame {
    int32_t from = 0;
    uint64_t from_incarnation = 0, to_incarnation = 0;
    Epoch epoch = 0;
    uint64_t plan = 0;
    uint64_t question = 0;
    struct Route {
      size_t route = 0;
      ExpertId expert = 0;
      uint64_t row = 0;
    };
    std::vector<Route> routes;
  };
  struct Answer {
    Epoch epoch = 0;
    uint64_t question = 0;
    bool refused = false;
    std::optional<ExpertId> lacking;  // it is refused because this could not be read
    std::vector<std::pair<size_t, uint64_t>> outputs;
  };

  void OnView(const SharedView& view);
  void OnSubmit(const Submit& submit);
  void OnCancel(uint64_t request, uint32_t attempt);
  void OnFrame(const Frame& frame);
  void OnAnswer(const Answer& answer);
  void OnPeerDown(int32_t peer, uint64_t incarnation);

  Epoch adopted() const { return keeper_ == nullptr ? 0 : keeper_->adopted_epoch(); }
  const scheduler::EpochKeeper& keeper() const { return *keeper_; }
  bool lacks_nothing() const { return lacks_.empty(); }
  size_t sequences() const { return sequences_.size(); }
  int32_t blocks_used() const { return pool_->used(); }

 private:
  struct Sequence {
    Submit submit;
    std::vector<scheduler::BlockId> blocks;
  };
  struct Row {
    uint64_t request = 0;
    uint64_t version = 0;
    uint64_t value = 0;
  };

  void OnStart() override;
  void OnCrash() override {}
  void Beat();
  void CheckLater();
  void SyncWeights(const Placement* prepared);
  bool CanRead(const Placement& placement, bool committed) const;
  void LearnLacks(const Placement& placement);
  void ForgetLacks();
  bool Lacks(const Placement* placement, uint64_t version) const;
  void EndWhatIsServedNoMore();
  void EndAll(uint64_t version);
  void PrepareLater(const std::shared_ptr<const Placement>& placement);
  bool Prepare(const std::shared_ptr<const Placement>& placement, bool committed);
  const View::Worker* Known(const std::string& id) const;
  bool Usable(const std::string& id) const;
  bool MayServe(const Frame& frame);
  uint64_t ComputeHere(ExpertId expert, uint64_t row) const;

  void StepSoon(Micros delay);
  void BeginStep();
  void Dispatch();
  void Ask(const std::vector<size_t>& routes, bool again);
  std::vector<size_t> Missing() const;
  void AnswerHere(const std::vector<size_t>& routes);
  void MaybeNextLayer();
  void Redo();
  void FinishStep();

  World& world_;
  const int32_t self_;
  // Of this start.
  std::unique_ptr<scheduler::EpochKeeper> keeper_;
  std::unique_ptr<scheduler::BlockPool> pool_;
  std::map<ExpertId, uint64_t> weights_;          // at hand
  std::map<uint64_t, std::set<uint64_t>> lacks_;  // by plan of what is held: versions
  uint64_t checked_ = 0;                          // as Beat's check
  scheduler::FoundAdapter found_;
  SharedView view_;
  uint64_t acknowledged_ = 0, refused_ = 0;
  std::map<int32_t, uint64_t> down_;        // peers whose connection broke: their incarnation
  std::map<uint64_t, Sequence> sequences_;  // by request

  // The step that runs.
  bool stepping_ = false;
  bool step_due_ = false;
  uint64_t question_ = 0;  // its number: answers to others do not count
  std::shared_ptr<const Placement> placement_;
  std::unique_ptr<scheduler::DispatchRule> rule_;
  std::shared_ptr<const Placement> rule_placement_;  // it is for
  std::vector<Row> rows_;
  int32_t layer_ = 0;
  std::vector<ExpertId> experts_;  // [rows * top_k]
  std::vector<int32_t> asked_;     // [rows * top_k] who was asked last; -1: nobody
  std::vector<std::optional<uint64_t>> outputs_;
};

}  // namespace conclave::sim
