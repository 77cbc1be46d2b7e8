#include "services/cli/scoring.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "scheduler/check.h"
#include "worker/status.h"

namespace conclave::services::cli {

std::vector<Window> Windows(size_t tokens, size_t size, size_t stride) {
  CONCLAVE_CHECK(stride >= 1 && stride <= size);
  std::vector<Window> windows;
  size_t scored = 0;  // tokens before this one are done with
  for (size_t begin = 0; scored < tokens; begin += stride) {
    const size_t end = std::min(begin + size, tokens);
    windows.push_back({begin, end, std::max(begin + 1, scored)});
    scored = end;
  }
  return windows;
}

absl::StatusOr<Scores> Score(Client& client, const v1::ScoreRequest& request,
                             const std::function<absl::Status(const v1::Routing&)>& on_routing) {
  Client::Call call(client);
  const auto reader = client.inference().Score(call.context(), request);
  Scores scores;
  bool done = false;
  absl::Status status;
  for (v1::ScoreResponse part; status.ok() && reader->Read(&part); part.Clear()) {
    for (const uint32_t id : part.token_ids()) scores.token_ids.push_back(id);
    for (const v1::TokenLogprob& token : part.logprobs()) {
      scores.logprobs.push_back(token.logprob());
    }
    if (on_routing && part.has_routing()) status = on_routing(part.routing());
    done = done || part.done();
  }
  if (!status.ok()) call.context()->TryCancel();
  const absl::Status ended = Client::StatusOf(reader->Finish(), *call.context());
  CONCLAVE_RETURN_IF_ERROR(status);
  CONCLAVE_RETURN_IF_ERROR(ended);
  if (!done) return absl::DataLossError("the stream ended before it was done: it is incomplete");
  if (!scores.token_ids.empty() && scores.logprobs.size() != scores.token_ids.size() - 1) {
    return absl::DataLossError(absl::StrFormat("%d tokens came with %d log-probabilities",
                                               scores.token_ids.size(), scores.logprobs.size()));
  }
  return scores;
}

absl::StatusOr<Tokens> Tokenize(Client& client, const v1::Prompt& prompt) {
  if (prompt.has_tokens()) {
    return Tokens{.ids = {prompt.tokens().ids().begin(), prompt.tokens().ids().end()}};
  }
  v1::TokenizeRequest request;
  *request.mutable_prompt() = prompt;
  v1::TokenizeResponse response;
  Client::Call call(client);
  const grpc::Status status = client.inference().Tokenize(call.context(), request, &response);
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(status, *call.context()));
  Tokens tokens = {.ids = {response.token_ids().begin(), response.token_ids().end()}};
  for (const std::string& bytes : response.tokens()) tokens.bytes.push_back(bytes.size());
  if (tokens.bytes.size() != tokens.ids.size()) {
    return absl::DataLossError(absl::StrFormat("%d token ids came with the bytes of %d",
                                               tokens.ids.size(), tokens.bytes.size()));
  }
  return tokens;
}

}  // namespace conclave::services::cli
