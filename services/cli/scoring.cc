#include "services/cli/scoring.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "scheduler/check.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

absl::Status TokenizePiece(Client& client, const v1::Prompt& piece, Tokens* tokens) {
  v1::TokenizeRequest request;
  *request.mutable_prompt() = piece;
  v1::TokenizeResponse response;
  Client::Call call(client);
  const grpc::Status status = client.inference().Tokenize(call.context(), request, &response);
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(status, *call.context()));
  if (response.tokens_size() != response.token_ids_size()) {
    return absl::DataLossError(absl::StrFormat("%d token ids came with the bytes of %d",
                                               response.token_ids_size(), response.tokens_size()));
  }
  tokens->ids.insert(tokens->ids.end(), response.token_ids().begin(), response.token_ids().end());
  for (const std::string& bytes : response.tokens()) tokens->bytes.push_back(bytes.size());
  return absl::OkStatus();
}

}  // namespace

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
    scores.policies.MergeFrom(part.policies());
    scores.adapter += part.adapter();
    if (part.has_auto_choice()) scores.auto_choice = part.auto_choice();
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
  Tokens tokens;
  if (prompt.has_tokens()) {
    tokens.ids = {prompt.tokens().ids().begin(), prompt.tokens().ids().end()};
    return tokens;
  }
  v1::Prompt piece = prompt;
  std::string_view rest = prompt.text();
  do {
    const size_t size = PieceOf(rest, kPieceBytes);
    piece.set_text(std::string(rest.substr(0, size)));
    CONCLAVE_RETURN_IF_ERROR(TokenizePiece(client, piece, &tokens));
    rest.remove_prefix(size);
    piece.set_no_added_tokens(true);  // only the first piece begins a sequence
  } while (!rest.empty());
  return tokens;
}

size_t PieceOf(std::string_view text, size_t limit) {
  if (text.size() <= limit) return text.size();
  const size_t line = text.rfind('\n', limit - 1);
  if (line != std::string_view::npos) return line + 1;
  size_t end = limit;
  while (end > 1 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return end;
}

}  // namespace conclave::services::cli
