// conclave chat: a line of stdin is a message, the answer streams, and the conversation goes on.

#include <grpcpp/grpcpp.h>

#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "router/utf8.h"
#include "services/cli/auto_choice.h"
#include "services/cli/client.h"
#include "services/cli/command.h"
#include "services/cli/json.h"
#include "services/cli/policies.h"
#include "services/cli/sampling_flags.h"
#include "services/cli/text_printer.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

constexpr char kName[] = "chat";

struct Options {
  Client::Options client;
  std::string system, adapter, template_name, template_arguments;
  SamplingFlags sampling;
};

void Bind(Flags& flags, Options& options) {
  Client::AddFlags(flags, options.client);
  flags.Add({"system", &options.system, "TEXT", "what the model is told before the first message"});
  flags.Add({"adapter", &options.adapter, "NAME",
             "instead of the base model; auto: the one that fits the prompt best"});
  options.sampling.AddTo(flags);
  flags.Add({"template", &options.template_name, "NAME", "of a model with several chat templates"});
  flags.Add({"template-arguments", &options.template_arguments, "JSON",
             "further variables of the template, as {\"enable_thinking\": false}"});
}

absl::StatusOr<v1::ChatRequest> MakeRequest(const Flags& flags, const Options& options) {
  v1::ChatRequest request;
  request.set_template_name(options.template_name);
  request.set_template_arguments(options.template_arguments);
  v1::GenerateRequest& generate = *request.mutable_generate();
  generate.set_adapter(options.adapter);
  CONCLAVE_RETURN_IF_ERROR(options.sampling.SetIn(generate, flags));
  return request;
}

void AddMessage(v1::ChatRequest& request, const std::string& role, const std::string& content) {
  v1::ChatMessage& message = *request.add_messages();
  message.set_role(role);
  message.set_content(content);
}

// Answers what request ends with; the text.
absl::StatusOr<std::string> Answer(Client& client, const v1::ChatRequest& request, bool quiet,
                                   Io& io) {
  Client::Call call(client);
  const auto reader = client.inference().Chat(call.context(), request);
  TextPrinter printer(io);
  std::string text;
  v1::GenerateResponse said;  // but the text
  bool complete = false;
  for (v1::GenerateResponse part; reader->Read(&part); part.Clear()) {
    text += part.text();
    complete = complete || part.finish_reason() != v1::FINISH_REASON_UNSPECIFIED;
    if (!quiet) printer.Add(part.text());
    part.clear_text();
    part.clear_token_ids();
    said.MergeFrom(part);
  }
  if (!quiet) printer.End();
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(reader->Finish(), *call.context()));
  if (!complete) {
    return absl::DataLossError("the stream ended without a finish reason: it is incomplete");
  }
  if (!quiet && said.has_auto_choice()) {
    io.err << "conclave " << kName << ": adapter: " << Remark(said.auto_choice(), said.adapter())
           << "\n";
  }
  if (const std::string remark = Remark(said.policies()); !quiet && !remark.empty())
    io.err << "conclave " << kName << ": policies: " << remark << "\n";
  return text;
}

// One message and its answer, which the conversation then has, or neither.
int Turn(const Options& options, const std::string& line, v1::ChatRequest& request, Io& io) {
  if (!router::IsUtf8(line)) {
    return Finish(kName, absl::InvalidArgumentError("the line is not UTF-8"), io);
  }
  // A client of its own: between answers Ctrl-C ends the command, within one it cancels that.
  const auto client = Client::Make(options.client);
  if (!client.ok()) return UsageError(kName, client.status(), io);
  AddMessage(request, "user", line);
  const absl::StatusOr<std::string> text = Answer(**client, request, options.client.json, io);
  if (text.ok()) {
    AddMessage(request, "assistant", *text);
  } else {
    request.mutable_messages()->RemoveLast();
  }
  return (*client)->Finish(kName, text.status(), io);
}

Json ToJson(const v1::ChatRequest& request) {
  Json messages = Json::array();
  for (const v1::ChatMessage& message : request.messages()) {
    messages.push_back({{"role", message.role()}, {"content", message.content()}});
  }
  return {{"messages", std::move(messages)}};
}

}  // namespace

int RunChat(const Arguments& arguments, Io& io) {
  Options options;
  Flags flags("conclave chat",
              "Answers each line of stdin; the conversation goes on until it ends.");
  Bind(flags, options);
  if (const auto code = Parse(kName, flags, arguments, io)) return *code;
  if (const auto client = Client::Make(options.client); !client.ok()) {
    return UsageError(kName, client.status(), io);
  }
  absl::StatusOr<v1::ChatRequest> made = MakeRequest(flags, options);
  if (!made.ok()) return UsageError(kName, made.status(), io);
  v1::ChatRequest& request = *made;
  if (!options.system.empty()) AddMessage(request, "system", options.system);
  for (std::string line;;) {
    if (io.interactive) io.err << "> " << std::flush;
    if (!std::getline(io.in, line)) break;
    if (line.empty()) continue;
    const int code = Turn(options, line, request, io);
    // A person sees what went wrong and can go on; a script cannot.
    if (code != kDone && !io.interactive) return code;
  }
  if (options.client.json) Print(ToJson(request), io);
  return Finish(kName, absl::OkStatus(), io);
}

}  // namespace conclave::services::cli
