// conclave score: log-probabilities of a text, its perplexity and bits per byte.

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "services/cli/auto_choice.h"
#include "services/cli/client.h"
#include "services/cli/command.h"
#include "services/cli/input.h"
#include "services/cli/json.h"
#include "services/cli/policies.h"
#include "services/cli/scoring.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

constexpr char kName[] = "score";

struct Options {
  Client::Options client;
  Input input;
  std::string adapter;
  uint32_t window = 0, stride = 0;
};

// What a text came to. A token without a score has no context: the first one of a window.
struct Result {
  Tokens tokens;
  std::vector<std::optional<float>> logprobs;
  size_t windows = 0;
  google::protobuf::RepeatedField<int> policies;  // of every window: a cluster has the same for all
  std::string adapter;                            // that answered; empty: the base model
  std::optional<v1::AutoChoice> auto_choice;      // of the first window

  size_t scored() const {
    return static_cast<size_t>(std::count_if(logprobs.begin(), logprobs.end(),
                                             [](const auto& l) { return l.has_value(); }));
  }
  double total() const {
    return std::accumulate(logprobs.begin(), logprobs.end(), 0.0,
                           [](double sum, const auto& l) { return sum + l.value_or(0); });
  }
  // exp of the mean of -log p; nothing scored: nothing.
  std::optional<double> perplexity() const {
    if (scored() == 0) return std::nullopt;
    return std::exp(-total() / static_cast<double>(scored()));
  }
  // Of the scored tokens: the bits they cost over the bytes they stand for.
  std::optional<double> bits_per_byte() const {
    size_t bytes = 0;
    for (size_t i = 0; i < tokens.bytes.size(); ++i) bytes += logprobs[i] ? tokens.bytes[i] : 0;
    if (bytes == 0) return std::nullopt;
    return -total() / std::numbers::ln2 / static_cast<double>(bytes);
  }
};

// Of the next window: what was chosen for the first is meant for all.
std::string AdapterFor(const Result& so_far, const Options& options) {
  if (!so_far.auto_choice) return options.adapter;
  return so_far.adapter.empty() ? "base" : so_far.adapter;
}

absl::StatusOr<Result> ScoreAll(Client& client, const Options& options, const v1::Prompt& prompt) {
  Result result;
  CONCLAVE_ASSIGN_OR_RETURN(result.tokens, Tokenize(client, prompt));
  const std::vector<uint32_t>& ids = result.tokens.ids;
  if (ids.empty()) return absl::InvalidArgumentError("there is no token to score");
  result.logprobs.resize(ids.size());
  const size_t size = options.window == 0 ? ids.size() : options.window;
  const size_t stride = options.stride == 0 ? size : options.stride;
  const std::vector<Window> windows = Windows(ids.size(), size, stride);
  result.windows = windows.size();
  for (const Window& window : windows) {
    v1::ScoreRequest request;
    request.set_adapter(AdapterFor(result, options));
    request.mutable_prompt()->mutable_tokens()->mutable_ids()->Add(ids.data() + window.begin,
                                                                   ids.data() + window.end);
    CONCLAVE_ASSIGN_OR_RETURN(const Scores scores, Score(client, request, nullptr));
    if (scores.token_ids.size() != window.end - window.begin) {
      return absl::DataLossError(absl::StrFormat("sent %d tokens, the scores are of %d",
                                                 window.end - window.begin,
                                                 scores.token_ids.size()));
    }
    result.policies = scores.policies;
    result.adapter = scores.adapter;
    if (scores.auto_choice) result.auto_choice = scores.auto_choice;
    for (size_t i = window.score_from; i < window.end; ++i) {
      result.logprobs[i] = scores.logprobs[i - window.begin - 1];
    }
  }
  return result;
}

Json ToJson(const Result& result, bool is_text) {
  Json logprobs = Json::array();
  for (const std::optional<float>& logprob : result.logprobs) {
    logprobs.push_back(logprob ? Number(*logprob) : Json(nullptr));
  }
  const auto number = [](const std::optional<double>& value) {
    return value ? Number(*value) : Json(nullptr);
  };
  Json json = {{"token_ids", result.tokens.ids},
               {"logprobs", std::move(logprobs)},
               {"perplexity", number(result.perplexity())},
               {"scored", result.scored()},
               {"windows", result.windows},
               {"auto", result.auto_choice ? ChoiceOf(*result.auto_choice) : Json(nullptr)},
               {"policies", NamesOf(result.policies)}};
  if (is_text) json["bits_per_byte"] = number(result.bits_per_byte());
  return json;
}

void PrintTable(const Result& result, Io& io) {
  io.out << absl::StrFormat("tokens         %d\nscored         %d\n", result.tokens.ids.size(),
                            result.scored());
  if (result.windows > 1) io.out << absl::StrFormat("windows        %d\n", result.windows);
  if (const auto value = result.perplexity()) {
    io.out << absl::StrFormat("log-likelihood %.6g\nperplexity     %.6g\n", result.total(), *value);
  }
  if (const auto value = result.bits_per_byte()) {
    io.out << absl::StrFormat("bits per byte  %.6g\n", *value);
  }
  if (result.auto_choice)
    io.out << absl::StrFormat("adapter        %s\n", Remark(*result.auto_choice, result.adapter));
  if (const std::string policies = Remark(result.policies); !policies.empty())
    io.out << absl::StrFormat("policies       %s\n", policies);
}

absl::Status CheckWindow(const Flags& flags, const Options& options) {
  if (!flags.Given("stride")) return absl::OkStatus();
  if (!flags.Given("window")) return absl::InvalidArgumentError("--stride goes with --window");
  if (options.stride <= options.window) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("--stride %d is larger than --window %d: tokens would be left out",
                      options.stride, options.window));
}

}  // namespace

int RunScore(const Arguments& arguments, Io& io) {
  Options options;
  Flags flags("conclave score",
              "Natural log-probabilities of each token given those before it, and perplexity.\n"
              "With --window, tokens [i*stride, i*stride+window) are scored by themselves for "
              "i = 0, 1, ..., each token once;\na window's first token has no context and no score "
              "(unless an earlier window scored it).\nBits per byte are of the scored tokens.");
  Client::AddFlags(flags, options.client);
  options.input.AddFlags(flags, "text", "file");
  flags.Add({"adapter", &options.adapter, "NAME",
             "instead of the base model; auto: the one that fits the prompt best"});
  flags.AddOptional({"window", &options.window, "N",
                     "score in windows of N tokens, for texts longer than the context", 2, 1e9});
  flags.AddOptional({"stride", &options.stride, "M",
                     "a window begins every M tokens; without it every N", 1, 1e9});
  if (const auto code = Parse(kName, flags, arguments, io)) return *code;
  if (const absl::Status status = CheckWindow(flags, options); !status.ok()) {
    return UsageError(kName, status, io);
  }
  const absl::StatusOr<v1::Prompt> prompt = options.input.Read(flags);
  if (!prompt.ok()) return UsageError(kName, prompt.status(), io);
  const auto client = Client::Make(options.client);
  if (!client.ok()) return UsageError(kName, client.status(), io);

  const absl::StatusOr<Result> result = ScoreAll(**client, options, *prompt);
  if (result.ok() && options.client.json) Print(ToJson(*result, !prompt->has_tokens()), io);
  if (result.ok() && !options.client.json) PrintTable(*result, io);
  return (*client)->Finish(kName, result.status(), io);
}

}  // namespace conclave::services::cli
