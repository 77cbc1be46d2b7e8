#include "services/gate_probe.h"

#include <utility>

namespace conclave::services {

router::Request GateProbe::ScoreFor(const router::Request& request) {
  return {.kind = router::Request::Kind::kScore,
          .tenant = request.tenant,
          .seed = 0,
          .routing = true,
          .reads_at_once = true,
          .cache_salt = request.cache_salt};
}

GateProbe::GateProbe(const v1::ModelInfo& model, Done done)
    : gate_{.layers = model.moe_layers(), .top_k = model.top_k(), .slots = model.experts()},
      done_(std::move(done)) {}

void GateProbe::Read(std::shared_ptr<LiveRequest> score) {
  {
    std::lock_guard lock(mutex_);
    score_ = std::move(score);
  }
  OnOutput();
}

// One thread at a time takes output, for all that say meanwhile that there is some.
void GateProbe::OnOutput() {
  std::shared_ptr<LiveRequest> score;
  {
    std::lock_guard lock(mutex_);
    score = score_;
  }
  if (score == nullptr || asked_.fetch_add(1) > 0) return;
  uint32_t answered = 0;
  do {
    answered = asked_.load();
    Take(*score);
  } while (asked_.fetch_sub(answered) != answered);
}

void GateProbe::Take(LiveRequest& score) {
  while (std::optional<LiveRequest::Output> output = score.Take()) {
    if (!all_.finish) all_.Append(std::move(output->delta));
    if (output->last) return End(score, output->status);
  }
}

void GateProbe::End(LiveRequest& score, const absl::Status& status) {
  {
    std::lock_guard lock(mutex_);
    score_.reset();
  }
  if (!status.ok()) return done_(score, status);
  std::optional<router::GateShares> shares;
  if (all_.routing) shares = router::SharesOf(*all_.routing, gate_, score.prompt().size());
  if (shares) return done_(score, *std::move(shares));
  done_(score,
        absl::InternalError("a worker reported a routing that the model's gate cannot choose"));
}

}  // namespace conclave::services
