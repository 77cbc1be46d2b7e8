#include "services/layer_digests.h"

#include <grpcpp/client_context.h>

#include <optional>
#include <thread>

#include "absl/strings/str_format.h"
#include "conclave/v1/cluster.grpc.pb.h"

namespace conclave::services {
namespace {

using Answer = absl::StatusOr<std::vector<std::string>>;

constexpr std::chrono::milliseconds kPause{100};  // before a stream that ended is opened again

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
  const auto stub = v1::Cluster::NewStub(scheduler);
  const auto until = std::chrono::system_clock::now() + patience;
  v1::WatchRequest request;
  request.set_watcher(self);
  while (std::chrono::system_clock::now() < until) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(until);
    const auto reader = stub->Watch(&context, request);
    v1::ClusterView view;
    std::optional<Answer> answer;
    while (!answer && reader->Read(&view)) answer = AnswerOf(view, self, dense);
    context.TryCancel();
    reader->Finish();
    if (answer) return *answer;
    std::this_thread::sleep_for(kPause);
  }
  return absl::UnavailableError(absl::StrFormat(
      "experts are missing, and no worker that has them came within %d ms", patience.count()));
}

}  // namespace conclave::services
