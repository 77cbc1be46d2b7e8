#include "loadtest/vocabulary.h"

#include <grpcpp/grpcpp.h>

#include <chrono>

#include "absl/strings/str_format.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "services/channel.h"

namespace conclave::loadtest {

absl::StatusOr<uint32_t> AskVocabulary(const std::string& server,
                                       const services::Credentials& credentials) {
  constexpr std::chrono::seconds kPatience(10);
  const auto stub = v1::Inference::NewStub(services::MakeChannel(server, credentials));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  v1::ListModelsResponse response;
  const grpc::Status status = stub->ListModels(&context, {}, &response);
  if (!status.ok()) {
    return absl::Status(
        static_cast<absl::StatusCode>(status.error_code()),
        absl::StrFormat("asking %s for its vocabulary: %s", server, status.error_message()));
  }
  for (const v1::Model& model : response.models()) {
    if (model.parent().empty() && model.vocab_size() > 0) return model.vocab_size();
  }
  return absl::FailedPreconditionError(
      absl::StrFormat("%s does not say how large its vocabulary is: give --vocabulary", server));
}

}  // namespace conclave::loadtest
