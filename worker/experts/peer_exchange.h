#pragma once
// The home's side of the exchange among several workers: sends each row once to every worker that
// computes any of its experts, gets one row per (token, expert) back, and puts it where gate order
// wants it, so that who computed never shows. What is this worker's own goes to its own server,
// which the engine thread serves while it waits.
//
// Where sums are returned, what the placement sums together (pieces.h) is asked of one worker that
// owns all of it and comes as one row. Where none can be asked, or only late ones, it is asked for
// row by row, and home makes the sum: the bits are the same, so here too who computed never shows.
//
// Rows that a peer owes for too long are asked of a replica as well; the bits are equal, so the
// first answer counts, and the peer is passed over for a while. Rows of a peer that is lost go to a
// replica; where there is none, the step is to be done again: Combine says UNAVAILABLE, naming an
// expert, or ABORTED if the placement it stepped by is not the others'. Nothing may be committed
// then. ABORTED too where the owner of an adapter's expert could not read it: lacking() says which.
//
// Threads: ForgetLosses, BeginStep, Dispatch, Combine, lacking, AwaitChange: the engine thread. The
// rest: any.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "scheduler/dispatch_rule.h"
#include "scheduler/lateness.h"
#include "scheduler/placement.h"
#include "worker/experts/exchange.h"
#include "worker/experts/expert_server.h"
#include "worker/experts/pieces.h"
#include "worker/experts/transport.h"

namespace conclave::worker {

class PeerExchange final : public Exchange, private ExpertServer::Watcher {
 public:
  struct Options {
    scheduler::DispatchRule::Options rule;
    // An answer is late when it takes longer than this and than `late_factor` times what answers
    // take in the mean.
    std::chrono::microseconds late{2000};
    double late_factor = 4.0;
    scheduler::Lateness::Options lateness;
    int32_t spin_us = 50;  // how long the engine thread watches before it sleeps
    // How long it sleeps at most before it looks at the clock again.
    std::chrono::microseconds look{1000};
  };

  // limits: of one step of this home. transport may be null: then all experts must be this
  // worker's own.
  PeerExchange(const Options& options, const FrameLimits& limits, ExpertServer& server,
               Transport* transport);

  // The placement to step by; self: this worker's index in it, -1: none; peers [workers]: who they
  // are to the transport, -1: nobody, or not yet known.
  struct Table {
    std::shared_ptr<const scheduler::Placement> placement;
    int32_t self = -1;
    std::vector<PeerIndex> peers;
    bool waits = false;  // without a placement nothing is computed
  };
  // What is known of peers from here on includes who was lost before. Before a step's table is
  // made.
  void ForgetLosses();
  // Before a step. Null placement: every expert is here.
  void BeginStep(uint64_t step, const Table& table);

  absl::Status Dispatch(int32_t layer, ConstRows x, std::span<const scheduler::ExpertId> experts,
                        std::span<const float> weights, int32_t top_k) override;
  absl::Status Combine(Rows outputs) override;

  // For want of which the last Dispatch could not be combined; nothing: it was not that.
  struct Lacking {
    scheduler::ExpertId expert = 0;
    std::string worker;  // who owns it
  };
  const std::optional<Lacking>& lacking() const { return lacking_; }

  // Until something came, a peer went or came, or somebody rang; for so long at most.
  void AwaitChange(std::chrono::microseconds longest);

  // Answers and losses, as the transport tells them. OnAnswer takes what is no question.
  void OnAnswer(PeerIndex from, const FrameHeader& header, FrameBody body);
  void OnDown(PeerIndex peer);
  // Wakes the engine thread, in a step or in AwaitChange.
  void Ring();
  // From now on Combine says CANCELLED instead of waiting.
  void Close();

  // Peers that are late so often that homes elsewhere are better.
  std::vector<PeerIndex> Late() const;

  struct Stats {
    uint64_t frames = 0;      // asked of peers
    uint64_t rows = 0;        // sent to peers
    uint64_t routes = 0;      // asked of peers
    uint64_t own_routes = 0;  // computed here
    uint64_t bytes = 0;       // bodies, asked and answered
    uint64_t home_bytes = 0;  // of these, answered
    uint64_t late = 0;        // frames whose rows were asked of a replica too
    uint64_t avoided = 0;     // times that a peer was late and is passed over since
    uint64_t rerouted = 0;    // frames whose rows a lost peer still owed
    uint64_t stale = 0;       // answers nobody waited for any more
    uint64_t refusals = 0;    // answers that refused
  };
  Stats stats() const;

 private:
  using Clock = std::chrono::steady_clock;
  // Rows asked of one peer in one frame.
  struct Question {
    uint64_t number = 0;
    int32_t worker = -1;  // index in the placement
    PeerIndex peer = -1;
    uint32_t attempt = 0;
    Clock::time_point asked;
    bool late = false;            // asked of others too, if they own it
    std::vector<int32_t> pieces;  // ascending
    size_t routes = 0;            // of theirs
  };
  struct Answer {
    PeerIndex from = -1;
    FrameHeader header;
    FrameBody body;
  };

  void OnWork() override { Ring(); }

  static bool Fits(const FrameHeader& answer, const Question& question);
  static absl::Status NoOwner(scheduler::ExpertId expert);
  static scheduler::Micros Now();
  absl::Status Choose();
  absl::Status ChooseForRows();
  // Gives a piece to who is to answer for it, or, split, its routes; false: nobody can be asked for
  // all of it.
  bool Assign(int32_t piece);
  bool Assign(int32_t piece, bool late);
  void Give(int32_t worker, int32_t piece) { given_[static_cast<size_t>(worker)].push_back(piece); }
  std::vector<int32_t> OwnersOfAll(std::span<const int32_t> routes) const;
  absl::Status NoOwnerOf(int32_t piece) const;
  void AskGiven(uint32_t attempt, Rows outputs);
  // Asks `worker` for pieces of this dispatch; if it cannot be asked they are unasked again.
  void Ask(int32_t worker, std::span<const int32_t> pieces, uint32_t attempt);
  FrameHeader HeaderFor(std::span<const int32_t> pieces);
  void FillBody(const FrameHeader& header, std::span<const int32_t> pieces,
                std::span<std::byte> body);
  absl::Status AwaitAnswers(Rows outputs);
  void AwaitNews();
  bool TakeNews(Rows outputs);
  void Take(const Answer& answer, Rows outputs);
  void TakeRefusal(const Question& question, const FrameHeader& refusal);
  void TakeRows(const Question& question, const Answer& answer, Rows outputs);
  void TakeLosses();
  void LoseAll();                 // of losses_
  uint64_t Lose(PeerIndex peer);  // how many frames it owed
  void Drop(size_t question);
  void NoteUnasked(int32_t piece);
  absl::Status AskUnasked(Rows outputs);
  void ComputeHere(std::span<const int32_t> pieces, Rows outputs);
  void AskReplicasOfLate(Rows outputs);
  void NoteLate(Question& question);
  bool Avoids(PeerIndex peer) const;
  void AskReplicas(size_t question, Rows outputs);
  bool AssignToAnother(int32_t piece);
  Clock::duration LateAfter() const;

  const Options options_;
  const FrameLimits limits_;
  ExpertServer& server_;
  Transport* const transport_;

  // Engine thread.
  uint64_t step_ = 0;
  Table table_;
  std::optional<scheduler::DispatchRule> rule_;
  uint64_t next_number_ = 1;
  int32_t layer_ = 0;
  int32_t top_k_ = 0;
  ConstRows x_;
  std::span<const scheduler::ExpertId> experts_;
  std::span<const float> weights_;
  Pieces pieces_;                            // of this dispatch
  std::vector<int32_t> workers_;             // [routes] who computes; of this dispatch
  std::vector<std::vector<int32_t>> given_;  // [workers of the placement] pieces to ask for
  std::vector<Question> questions_;          // open ones
  std::vector<int32_t> unasked_;             // pieces that nobody was asked for yet
  size_t missing_ = 0;                       // routes of peers that have not arrived
  absl::Status redo_;                        // why the step is to be done again
  std::optional<Lacking> lacking_;           // of this dispatch
  std::vector<int32_t> row_index_;           // [rows] of x in a body; -1 between frames
  std::vector<uint32_t> body_rows_;          // of a body, rows of x in order
  ExpertServer::LocalJob local_;
  std::vector<FrameRoute> local_routes_;
  std::vector<int32_t> local_outputs_;
  ExpertServer::LocalJob again_;  // what a lost peer owed and is here too
  std::vector<FrameRoute> again_routes_;
  std::vector<int32_t> again_outputs_;
  double mean_seconds_ = 0.0;    // an answer takes
  std::vector<Answer> answers_;  // taken out of the inbox
  std::vector<PeerIndex> losses_;

  mutable std::mutex mutex_;  // guards what follows
  scheduler::Lateness lateness_;
  std::vector<Answer> inbox_;
  std::vector<PeerIndex> lost_;
  bool waiting_ = false;  // for answers; others are dropped, and their memory with them
  std::atomic<bool> closed_{false};
  std::atomic<bool> news_{false};  // set under mutex_, watched without
  Stats stats_;
  std::condition_variable bell_;
};

}  // namespace conclave::worker
