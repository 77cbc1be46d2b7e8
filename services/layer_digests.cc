#include "services/layer_digests.h"

#include <future>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/cluster_watch.h"

namespace conclave::services {
namespace {

using Answer = absl::StatusOr<std::vector<std::string>>;

std::optional<Answer> AnswerOf(const v1::ClusterView& view, const std::string& self,
                               const std::string& dense) {
  for (const v1::WorkerInfo& worker : view.workers()) {
    const v1::ModelInfo& model = worker.model();
    if (worker.id() == self || worker.state() == v1::WORKER_STATE_DEAD) continue;
    if (model.dense_digest().empty()) continue;  // not heard yet
    if (model.dense_digest() != dense) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "experts are missing, and worker %s serves another checkpoint: its settings and dense "
          "weights are %s, here they are %s",
          worker.id(), model.dense_digest(), dense));
    }
    return std::vector<std::string>(model.layer_digests().begin(), model.layer_digests().end());
  }
  return std::nullopt;
}

}  // namespace

Answer AskLayerDigests(const std::shared_ptr<grpc::Channel>& scheduler, const std::string& self,
                       const std::string& dense, std::chrono::milliseconds patience) {
  std::promise<Answer> promise;
  std::future<Answer> answer = promise.get_future();
  bool answered = false;
  const ClusterWatch watch({.watcher = self}, scheduler, [&](const v1::ClusterView& view) {
    std::optional<Answer> said;
    if (!answered) said = AnswerOf(view, self, dense);
    if (!said) return;
    answered = true;
    promise.set_value(*std::move(said));
  });
  if (answer.wait_for(patience) == std::future_status::ready) return answer.get();
  return absl::UnavailableError(absl::StrFormat(
      "experts are missing, and no worker that has them came within %d ms", patience.count()));
}

}  // namespace conclave::services
