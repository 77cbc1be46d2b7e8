// conclave tokenize and detokenize.

#include <grpcpp/grpcpp.h>

#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "router/utf8.h"
#include "services/cli/client.h"
#include "services/cli/command.h"
#include "services/cli/input.h"
#include "services/cli/json.h"
#include "services/cli/terminal.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

// The bytes of tokens need not be whole characters, so they are told in hex as well.
Json ToJson(const v1::TokenizeResponse& response) {
  Json hex = Json::array();
  for (const std::string& bytes : response.tokens()) hex.push_back(absl::BytesToHexString(bytes));
  return {{"token_ids", response.token_ids()},
          {"tokens", response.tokens()},
          {"tokens_hex", std::move(hex)}};
}

absl::Status Tokenize(Client& client, const v1::Prompt& prompt, bool json, Io& io) {
  v1::TokenizeRequest request;
  *request.mutable_prompt() = prompt;
  v1::TokenizeResponse response;
  Client::Call call(client);
  const grpc::Status status = client.inference().Tokenize(call.context(), request, &response);
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(status, *call.context()));
  if (json) {
    Print(ToJson(response), io);
  } else {
    io.out << absl::StrJoin(response.token_ids(), ",") << "\n";
  }
  return absl::OkStatus();
}

// As JSON, text that is not UTF-8 comes with its bytes in hex; otherwise the bytes themselves.
absl::Status Detokenize(Client& client, const v1::DetokenizeRequest& request, bool json, Io& io) {
  v1::DetokenizeResponse response;
  Client::Call call(client);
  const grpc::Status status = client.inference().Detokenize(call.context(), request, &response);
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(status, *call.context()));
  const std::string& text = response.text();
  if (json) {
    Json document = {{"text", text}};
    if (!router::IsUtf8(text)) document["text_hex"] = absl::BytesToHexString(text);
    Print(document, io);
  } else {
    io.out << (io.terminal ? Printable(text) + "\n" : text);
  }
  return absl::OkStatus();
}

}  // namespace

int RunTokenize(const Arguments& arguments, Io& io) {
  constexpr char kName[] = "tokenize";
  Client::Options options;
  Input input;
  Flags flags("conclave tokenize", "The token ids of a text, as a comma-separated list.");
  Client::AddFlags(flags, options);
  input.AddTextFlags(flags, "text", "file");
  if (const auto code = Parse(kName, flags, arguments, io)) return *code;
  const absl::StatusOr<v1::Prompt> prompt = input.Read(flags);
  if (!prompt.ok()) return UsageError(kName, prompt.status(), io);
  const auto client = Client::Make(options);
  if (!client.ok()) return UsageError(kName, client.status(), io);
  return (*client)->Finish(kName, Tokenize(**client, *prompt, options.json, io), io);
}

int RunDetokenize(const Arguments& arguments, Io& io) {
  constexpr char kName[] = "detokenize";
  Client::Options options;
  Input input;
  v1::DetokenizeRequest request;
  bool skip_special = false;
  Flags flags("conclave detokenize", "The text of token ids, byte for byte.");
  Client::AddFlags(flags, options);
  input.AddTokenIdsFlag(flags);
  flags.Add({"skip-special", &skip_special, "", "leave out special tokens"});
  if (const auto code = Parse(kName, flags, arguments, io)) return *code;
  const absl::StatusOr<v1::Prompt> prompt = input.Read(flags);
  if (!prompt.ok()) return UsageError(kName, prompt.status(), io);
  *request.mutable_token_ids() = prompt->tokens().ids();
  request.set_skip_special(skip_special);
  const auto client = Client::Make(options);
  if (!client.ok()) return UsageError(kName, client.status(), io);
  return (*client)->Finish(kName, Detokenize(**client, request, options.json, io), io);
}

}  // namespace conclave::services::cli
