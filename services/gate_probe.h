#pragma once
// What the base model's gate chooses for the beginning of a prompt: a score of the router's own,
// read by the router itself, like any other in how it is admitted, queued, sent home and resumed.
//
// Threads: as a LiveRequest::Reader; `done` is called with no lock held.

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/worker.pb.h"
#include "router/auto_adapter.h"
#include "router/delta.h"
#include "router/request.h"
#include "services/live_request.h"

namespace conclave::services {

class GateProbe : public LiveRequest::Reader {
 public:
  using Shares = absl::StatusOr<router::GateShares>;
  using Done = std::function<void(LiveRequest& score, const Shares&)>;

  // The score that is to be admitted for `request`. It has no id that a worker would keep it by.
  static router::Request ScoreFor(const router::Request& request);

  // done: called once, when the score has ended and is to be forgotten. INTERNAL: the worker said
  // what no gate of this model chooses.
  GateProbe(const v1::ModelInfo& model, Done done);

  // Of `score`, whose output is to come from now on: it is begun after this. It may have ended.
  void Read(std::shared_ptr<LiveRequest> score);

  void OnOutput() override;
  void OnStalled(const absl::Status&) override {}

 private:
  void Take(LiveRequest& score);
  void End(LiveRequest& score, const absl::Status& status);

  const router::GateShape gate_;
  const Done done_;

  std::mutex mutex_;
  std::shared_ptr<LiveRequest> score_;  // until it has ended
  std::atomic<uint32_t> asked_ = 0;     // times that it said there is output, not yet answered
  router::Delta all_;                   // of whoever answers
};

}  // namespace conclave::services
