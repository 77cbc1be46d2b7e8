// conclave generate: the text as it arrives, or one JSON document when it is complete.

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/cli/client.h"
#include "services/cli/command.h"
#include "services/cli/input.h"
#include "services/cli/json.h"
#include "services/cli/text_printer.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kName[] = "generate";
constexpr uint32_t kMaxCompletions = 1024;  // that we hold; the server's limit is its own

struct Options {
  Client::Options client;
  Input input;
  std::string adapter, request_id, cache_salt;
  uint32_t max_tokens = 0, min_tokens = 0, top_k = 0, logprobs = 0, n = 1;
  double temperature = 0, top_p = 0, min_p = 0;
  double repetition_penalty = 0, presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0;
  std::vector<std::string> logit_bias, stop;
  bool ignore_eos = false;
};

void Bind(Flags& flags, Options& options) {
  Client::AddFlags(flags, options.client);
  options.input.AddFlags(flags, "prompt", "prompt-file");
  flags.Add({"adapter", &options.adapter, "NAME", "instead of the base model"});
  flags.AddOptional(
      {"max-tokens", &options.max_tokens, "N", "without it the server's default", 1, 1e9});
  flags.AddOptional({"temperature", &options.temperature, "X",
                     "0 is greedy; without it the model's generation_config.json"});
  flags.AddOptional({"top-p", &options.top_p, "P",
                     "keep the likeliest tokens of this mass, (0, 1]; without it the model's"});
  flags.AddOptional({"top-k", &options.top_k, "K",
                     "keep so many of the likeliest tokens; 0: off; without it the model's"});
  flags.AddOptional(
      {"min-p", &options.min_p, "P",
       "keep tokens at least P times as likely as the likeliest, [0, 1]; 0: off; without it the "
       "model's"});
  flags.AddOptional(
      {"repetition-penalty", &options.repetition_penalty, "X",
       "of tokens in the prompt or the output, above 0; 1: off; without it the model's"});
  flags.AddOptional(
      {"presence-penalty", &options.presence_penalty, "X", "of tokens in the output, -2 to 2"});
  flags.AddOptional({"frequency-penalty", &options.frequency_penalty, "X",
                     "of tokens in the output, for each time they are there, -2 to 2"});
  flags.Add({"logit-bias", &options.logit_bias, "ID=X",
             "add X, -100 to 100, to the logit of a token; may be repeated"});
  flags.AddOptional({"seed", &options.seed, "S", "without it the router draws one and reports it"});
  flags.AddOptional({"min-tokens", &options.min_tokens, "N", "nothing ends the first N tokens"});
  flags.Add({"stop", &options.stop, "TEXT", "end before this text; may be repeated"});
  flags.AddOptional(
      {"logprobs", &options.logprobs, "N",
       "report log-probabilities of the tokens, and of the N likeliest; without it none", 0, 20});
  flags.Add({"ignore-eos", &options.ignore_eos, "", "go on after an end-of-sequence token"});
  flags.Add({"n", &options.n, "N",
             "completions of the prompt; without --json each when it is complete", 1,
             kMaxCompletions});
  flags.Add({"request-id", &options.request_id, "ID", "unique among live requests"});
  flags.Add({"cache-salt", &options.cache_salt, "TEXT",
             "what the prompt begins with is shared with requests of this salt only"});
}

absl::Status ReadLogitBias(const std::vector<std::string>& flags, v1::Sampling& sampling) {
  for (const std::string& flag : flags) {
    const size_t equals = std::min(flag.find('='), flag.size());
    uint32_t token = 0;
    float bias = 0;
    if (equals == flag.size() || !absl::SimpleAtoi(flag.substr(0, equals), &token) ||
        !absl::SimpleAtof(flag.substr(equals + 1), &bias)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--logit-bias \"%s\" is not ID=X, a token id and a number", flag));
    }
    (*sampling.mutable_logit_bias())[token] = bias;
  }
  return absl::OkStatus();
}

// What a flag does not say is left to the server, and so is the judgement of values.
absl::StatusOr<v1::GenerateRequest> MakeRequest(const Flags& flags, const Options& options) {
  v1::GenerateRequest request;
  CONCLAVE_ASSIGN_OR_RETURN(*request.mutable_prompt(), options.input.Read(flags));
  request.set_request_id(options.request_id);
  request.set_adapter(options.adapter);
  request.set_cache_salt(options.cache_salt);
  v1::Sampling& sampling = *request.mutable_sampling();
  if (flags.Given("temperature")) {
    sampling.set_temperature(static_cast<float>(options.temperature));
  }
  if (flags.Given("top-p")) sampling.set_top_p(static_cast<float>(options.top_p));
  if (flags.Given("top-k")) sampling.set_top_k(options.top_k);
  if (flags.Given("seed")) sampling.set_seed(options.seed);
  if (flags.Given("min-p")) sampling.set_min_p(static_cast<float>(options.min_p));
  if (flags.Given("repetition-penalty")) {
    sampling.set_repetition_penalty(static_cast<float>(options.repetition_penalty));
  }
  if (flags.Given("presence-penalty")) {
    sampling.set_presence_penalty(static_cast<float>(options.presence_penalty));
  }
  if (flags.Given("frequency-penalty")) {
    sampling.set_frequency_penalty(static_cast<float>(options.frequency_penalty));
  }
  CONCLAVE_RETURN_IF_ERROR(ReadLogitBias(options.logit_bias, sampling));
  v1::Stopping& stopping = *request.mutable_stopping();
  if (flags.Given("max-tokens")) stopping.set_max_tokens(options.max_tokens);
  if (flags.Given("min-tokens")) stopping.set_min_tokens(options.min_tokens);
  stopping.mutable_stop()->Add(options.stop.begin(), options.stop.end());
  stopping.set_ignore_eos(options.ignore_eos);
  if (flags.Given("logprobs")) request.set_logprobs(options.logprobs);
  if (flags.Given("n")) request.set_n(options.n);
  return request;
}

// The stream so far.
struct Generation {
  std::string text;
  v1::GenerateResponse all;  // merged: lists appended, the rest as last said
  Clock::time_point sent, first_token, last_token;

  void Add(const v1::GenerateResponse& part) {
    const Clock::time_point now = Clock::now();
    text += part.text();
    if (part.token_ids_size() > 0) {
      if (all.token_ids_size() == 0) first_token = now;
      last_token = now;
    }
    all.MergeFrom(part);
  }
  bool complete() const { return all.finish_reason() != v1::FINISH_REASON_UNSPECIFIED; }
};

// The ids of tokens that no text came with; otherwise nothing.
void PrintTextlessIds(const Generation& generation, Io& io) {
  if (!generation.text.empty() || generation.all.token_ids().empty()) return;
  io.err << "conclave " << kName
         << ": no text came with these tokens (the router has no tokenizer, or they stand for "
            "none): their ids\n";
  io.out << absl::StrJoin(generation.all.token_ids(), ",") << "\n";
}

double Milliseconds(Clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

const char* NameOf(v1::FinishReason reason) {
  return reason == v1::FINISH_REASON_STOP ? "stop" : "length";
}

Json LogprobsOf(const v1::GenerateResponse& all) {
  Json logprobs = Json::array();
  for (const v1::TokenLogprob& token : all.logprobs()) logprobs.push_back(Number(token.logprob()));
  return logprobs;
}

Json TopLogprobsOf(const v1::GenerateResponse& all) {
  Json tops = Json::array();
  for (const v1::TokenLogprob& token : all.logprobs()) {
    Json top = Json::array();
    for (const v1::TokenLogprob::Candidate& candidate : token.top()) {
      top.push_back({{"token_id", candidate.token_id()}, {"logprob", Number(candidate.logprob())}});
    }
    tops.push_back(std::move(top));
  }
  return tops;
}

Json TimingOf(const Generation& generation) {
  const int tokens = generation.all.token_ids_size();
  Json timing = {{"ttft_ms", nullptr}, {"tpot_ms", nullptr}};
  if (tokens > 0) timing["ttft_ms"] = Milliseconds(generation.first_token - generation.sent);
  if (tokens > 1) {
    timing["tpot_ms"] = Milliseconds(generation.last_token - generation.first_token) / (tokens - 1);
  }
  return timing;
}

Json ToJson(const Generation& generation, const v1::GenerateRequest& request) {
  const v1::GenerateResponse& all = generation.all;
  const uint32_t prompt_tokens = all.usage().prompt_tokens();
  const uint32_t completion_tokens = all.usage().completion_tokens();
  Json json = {{"text", generation.text},
               {"token_ids", all.token_ids()},
               {"logprobs", request.has_logprobs() ? LogprobsOf(all) : Json(nullptr)},
               {"finish_reason", NameOf(all.finish_reason())},
               {"usage",
                {{"prompt_tokens", prompt_tokens},
                 {"completion_tokens", completion_tokens},
                 {"cached_prompt_tokens", all.usage().cached_prompt_tokens()},
                 {"total_tokens", prompt_tokens + completion_tokens}}},
               {"timing", TimingOf(generation)},
               {"seed", all.has_seed() ? Json(all.seed()) : Json(nullptr)},
               {"request_id", all.request_id()}};
  if (request.logprobs() > 0) json["top_logprobs"] = TopLogprobsOf(all);
  if (all.has_stop_token_id()) json["stop_token_id"] = all.stop_token_id();
  if (!all.stop_string().empty()) json["stop_string"] = all.stop_string();
  return json;
}

// One document for one completion, and a list of them for several.
void PrintJson(const std::vector<Generation>& all, const v1::GenerateRequest& request, Io& io) {
  if (!request.has_n()) return Print(ToJson(all[0], request), io);
  Json completions = Json::array();
  for (const Generation& generation : all) completions.push_back(ToJson(generation, request));
  Print({{"completions", std::move(completions)}}, io);
}

// Completions come mixed: each is printed as a whole, under its number.
void PrintCompletion(const Generation& generation, Io& io) {
  TextPrinter printer(io);
  printer.Add(absl::StrFormat("[%d]\n", generation.all.index()));
  printer.Add(generation.text);
  printer.End();
  PrintTextlessIds(generation, io);
}

absl::Status Generate(Client& client, const v1::GenerateRequest& request, bool json, Io& io) {
  Client::Call call(client);
  std::vector<Generation> all(std::max(request.n(), 1u), {.sent = Clock::now()});
  const auto reader = client.inference().Generate(call.context(), request);
  TextPrinter printer(io);
  for (v1::GenerateResponse part; reader->Read(&part); part.Clear()) {
    if (part.index() >= all.size()) {
      return absl::DataLossError(
          absl::StrFormat("the server sent completion %d of %d", part.index(), all.size()));
    }
    Generation& generation = all[part.index()];
    generation.Add(part);
    if (json) continue;
    if (all.size() == 1) {
      printer.Add(part.text());
    } else if (generation.complete()) {
      PrintCompletion(generation, io);
    }
  }
  if (!json && all.size() == 1) {
    printer.End();
    PrintTextlessIds(all[0], io);
  }
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(reader->Finish(), *call.context()));
  if (!std::all_of(all.begin(), all.end(), [](const auto& one) { return one.complete(); })) {
    return absl::DataLossError("the stream ended without a finish reason: it is incomplete");
  }
  if (json) PrintJson(all, request, io);
  return absl::OkStatus();
}

}  // namespace

int RunGenerate(const Arguments& arguments, Io& io) {
  Options options;
  Flags flags("conclave generate", "Continues a prompt.");
  Bind(flags, options);
  if (const auto code = Parse(kName, flags, arguments, io)) return *code;
  const absl::StatusOr<v1::GenerateRequest> request = MakeRequest(flags, options);
  if (!request.ok()) return UsageError(kName, request.status(), io);
  const auto client = Client::Make(options.client);
  if (!client.ok()) return UsageError(kName, client.status(), io);
  return (*client)->Finish(kName, Generate(**client, *request, options.client.json, io), io);
}

}  // namespace conclave::services::cli
