// conclave trace record: scores texts and keeps where their tokens were routed.

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "services/cli/client.h"
#include "services/cli/command.h"
#include "services/cli/input.h"
#include "services/cli/json.h"
#include "services/cli/scoring.h"
#include "services/cli/trace_writer.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

constexpr char kName[] = "trace record";

struct Options {
  Client::Options client;
  Input input;
  std::string out, adapter, split = "file";
  std::vector<std::string> mixes;  // NAME=FILE
  uint32_t window = 0;
};

// Texts that belong together under a name.
struct Mix {
  std::string name;
  std::vector<v1::Prompt> texts;
};

void Bind(Flags& flags, Options& options) {
  Client::AddFlags(flags, options.client);
  options.input.AddFlags(flags, "text", "file");
  flags.Add({"out", &options.out, "DIR",
             "the trace directory to write; must not exist yet, or be empty"});
  flags.Add({"mix", &options.mixes, "NAME=FILE",
             "record this file under this name; may be repeated. Without it, --text, --file or "
             "--token-ids are recorded as mix \"default\""});
  flags.Add({"split", &options.split, "HOW",
             "the sequences of a file: file (all one text), line, or paragraph (blank lines "
             "between)"});
  flags.AddOptional(
      {"window", &options.window, "N",
       "longer sequences are cut every N tokens, each part a sequence of its own; without it "
       "the model's context limit",
       1, 1e9});
  flags.Add({"adapter", &options.adapter, "NAME", "instead of the base model, for all mixes"});
}

absl::StatusOr<std::vector<std::string>> Split(const std::string& text, const std::string& how) {
  std::vector<std::string> parts;
  if (how == "file") {
    parts = {text};
  } else if (how == "line") {
    parts = absl::StrSplit(text, '\n');
  } else if (how == "paragraph") {
    parts = absl::StrSplit(text, "\n\n");
  } else {
    return absl::InvalidArgumentError(
        absl::StrFormat("--split: want file, line or paragraph, not \"%s\"", how));
  }
  std::erase_if(parts, [](const std::string& part) {
    return part.find_first_not_of(" \t\r\n") == std::string::npos;
  });
  return parts;
}

absl::StatusOr<Mix> MakeMix(const std::string& name, const v1::Prompt& prompt,
                            const std::string& split) {
  Mix mix = {.name = name};
  if (prompt.has_tokens() && !prompt.tokens().ids().empty()) {
    mix.texts.push_back(prompt);
    return mix;
  }
  CONCLAVE_ASSIGN_OR_RETURN(const std::vector<std::string> parts, Split(prompt.text(), split));
  if (parts.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat("mix \"%s\" holds nothing to record", name));
  }
  for (const std::string& part : parts) {
    mix.texts.push_back(prompt);
    mix.texts.back().set_text(part);
  }
  return mix;
}

absl::StatusOr<std::vector<Mix>> ReadMixes(const Flags& flags, const Options& options) {
  if (options.out.empty()) return absl::InvalidArgumentError("--out is missing");
  std::vector<Mix> mixes;
  if (options.mixes.empty()) {
    CONCLAVE_ASSIGN_OR_RETURN(const v1::Prompt prompt, options.input.Read(flags));
    CONCLAVE_ASSIGN_OR_RETURN(Mix mix, MakeMix("default", prompt, options.split));
    mixes.push_back(std::move(mix));
    return mixes;
  }
  if (options.input.given(flags) > 0) {
    return absl::InvalidArgumentError("--mix does not go with --text, --file or --token-ids");
  }
  std::vector<std::string> names;
  for (const std::string& text : options.mixes) {
    names.push_back(text.substr(0, text.find('=')));
    if (names.back() != text) continue;
    return absl::InvalidArgumentError(absl::StrFormat("--mix \"%s\": want NAME=FILE", text));
  }
  CONCLAVE_RETURN_IF_ERROR(TraceWriter::CheckMixNames(names));
  for (size_t i = 0; i < names.size(); ++i) {
    v1::Prompt prompt;
    const std::string file = options.mixes[i].substr(names[i].size() + 1);
    CONCLAVE_ASSIGN_OR_RETURN(*prompt.mutable_text(), ReadFile(file));
    CONCLAVE_ASSIGN_OR_RETURN(Mix mix, MakeMix(names[i], prompt, options.split));
    mixes.push_back(std::move(mix));
  }
  return mixes;
}

absl::StatusOr<size_t> ContextLimit(Client& client) {
  v1::ListModelsResponse response;
  Client::Call call(client);
  const grpc::Status status = client.inference().ListModels(call.context(), {}, &response);
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(status, *call.context()));
  for (const v1::Model& model : response.models()) {
    if (model.parent().empty() && model.context_limit() > 0) return model.context_limit();
  }
  return absl::UnavailableError("the router names no model's context limit: give --window");
}

// One run of the command.
class Recording {
 public:
  Recording(Client& client, const Options& options, TraceWriter writer, size_t window, Io& io)
      : client_(client), options_(options), writer_(std::move(writer)), window_(window), io_(io) {}

  absl::Status Record(const std::vector<Mix>& mixes) {
    for (const Mix& mix : mixes) {
      CONCLAVE_RETURN_IF_ERROR(writer_.BeginMix(mix.name, options_.adapter));
      size_t sequences = 0;
      for (const v1::Prompt& text : mix.texts) {
        CONCLAVE_RETURN_IF_ERROR(RecordText(text, &sequences));
        io_.err << absl::StrFormat("mix %s: text %d of %d, %d tokens\n", mix.name,
                                   &text - mix.texts.data() + 1, mix.texts.size(),
                                   writer_.tokens());
      }
      CONCLAVE_RETURN_IF_ERROR(writer_.EndMix());
      report_[mix.name] = {{"tokens", writer_.tokens()}, {"sequences", sequences}};
    }
    return writer_.Finish();
  }

  Json report() const { return {{"out", options_.out}, {"mixes", report_}}; }

 private:
  absl::Status RecordText(const v1::Prompt& text, size_t* sequences) {
    CONCLAVE_ASSIGN_OR_RETURN(const Tokens tokens, Tokenize(client_, text));
    for (const Window& window : Windows(tokens.ids.size(), window_, window_)) {
      v1::ScoreRequest request;
      request.set_adapter(options_.adapter);
      request.set_routing(true);
      request.mutable_prompt()->mutable_tokens()->mutable_ids()->Add(
          tokens.ids.data() + window.begin, tokens.ids.data() + window.end);
      const absl::StatusOr<Scores> scores =
          Score(client_, request, [&](const v1::Routing& routing) { return writer_.Add(routing); });
      CONCLAVE_RETURN_IF_ERROR(scores.status());
      CONCLAVE_RETURN_IF_ERROR(writer_.EndSequence(window.end - window.begin));
      ++*sequences;
    }
    return absl::OkStatus();
  }

  Client& client_;
  const Options& options_;
  TraceWriter writer_;
  const size_t window_;
  Io& io_;
  Json report_ = Json::object();
};

absl::Status Record(Client& client, const Options& options, const std::vector<Mix>& mixes, Io& io) {
  size_t window = options.window;
  if (window == 0) {
    CONCLAVE_ASSIGN_OR_RETURN(window, ContextLimit(client));
  }
  CONCLAVE_ASSIGN_OR_RETURN(TraceWriter writer, TraceWriter::Create(options.out));
  Recording recording(client, options, std::move(writer), window, io);
  CONCLAVE_RETURN_IF_ERROR(recording.Record(mixes));
  if (options.client.json) Print(recording.report(), io);
  return absl::OkStatus();
}

int RunRecord(const Arguments& arguments, Io& io) {
  Options options;
  Flags flags("conclave trace record",
              "Scores texts and writes which experts their tokens went to, as a trace directory.");
  Bind(flags, options);
  if (const auto code = Parse(kName, flags, arguments, io)) return *code;
  if (options.adapter == "auto") {
    return UsageError(
        kName, absl::InvalidArgumentError("--adapter auto: a mix is of one adapter, name it"), io);
  }
  const absl::StatusOr<std::vector<Mix>> mixes = ReadMixes(flags, options);
  if (!mixes.ok()) return UsageError(kName, mixes.status(), io);
  const auto client = Client::Make(options.client);
  if (!client.ok()) return UsageError(kName, client.status(), io);
  return (*client)->Finish(kName, Record(**client, options, *mixes, io), io);
}

}  // namespace

int RunTrace(const Arguments& arguments, Io& io) {
  if (!arguments.empty() && arguments[0] == "record") {
    return RunRecord({arguments.begin() + 1, arguments.end()}, io);
  }
  const bool help = !arguments.empty() && arguments[0] == "--help";
  (help ? io.out : io.err) << "usage: conclave trace record [flags]\n";
  return help ? kDone : kUsage;
}

}  // namespace conclave::services::cli
