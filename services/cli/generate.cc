// conclave generate: the text as it arrives, or one JSON document when it is complete.

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/cli/auto_choice.h"
#include "services/cli/client.h"
#include "services/cli/command.h"
#include "services/cli/input.h"
#include "services/cli/json.h"
#include "services/cli/policies.h"
#include "services/cli/sampling_flags.h"
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
  std::string adapter, request_id, cache_salt, received;
  SamplingFlags sampling;
  uint32_t logprobs = 0, n = 1, resume_from = 0;
};

void Bind(Flags& flags, Options& options) {
  Client::AddFlags(flags, options.client);
  options.input.AddFlags(flags, "prompt", "prompt-file");
  flags.Add({"adapter", &options.adapter, "NAME",
             "instead of the base model; auto: the one that fits the prompt best"});
  options.sampling.AddTo(flags);
  flags.AddOptional(
      {"logprobs", &options.logprobs, "N",
       "report log-probabilities of the tokens, and of the N likeliest; without it none", 0, 20});
  flags.Add({"n", &options.n, "N",
             "completions of the prompt; without --json each when it is complete", 1,
             kMaxCompletions});
  flags.Add({"request-id", &options.request_id, "ID",
             "unique among live requests; the same request again goes on with it"});
  flags.AddOptional({"resume-from", &options.resume_from, "N",
                     "go on behind the first N tokens, of a stream that broke: the same command "
                     "with the id, the seed and the adapter (or base) that were reported",
                     0, 1e9});
  flags.Add({"received-token-ids", &options.received, "IDS",
             "those N tokens, 1,2,3: then none of them is computed again"});
  flags.Add({"cache-salt", &options.cache_salt, "TEXT",
             "what the prompt begins with is shared with requests of this salt only"});
}

absl::StatusOr<v1::GenerateRequest> MakeRequest(const Flags& flags, const Options& options) {
  v1::GenerateRequest request;
  CONCLAVE_ASSIGN_OR_RETURN(*request.mutable_prompt(), options.input.Read(flags));
  request.set_request_id(options.request_id);
  request.set_adapter(options.adapter);
  request.set_cache_salt(options.cache_salt);
  CONCLAVE_RETURN_IF_ERROR(options.sampling.SetIn(request, flags));
  if (flags.Given("logprobs")) request.set_logprobs(options.logprobs);
  if (flags.Given("n")) request.set_n(options.n);
  if (flags.Given("resume-from")) request.set_resume_from(options.resume_from);
  CONCLAVE_ASSIGN_OR_RETURN(const std::vector<uint32_t> received, ParseTokenIds(options.received));
  request.mutable_received_token_ids()->Add(received.begin(), received.end());
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

// What a person may want to know beside the text.
void PrintRemarks(const v1::GenerateResponse& all, Io& io) {
  if (all.has_auto_choice()) {
    io.err << "conclave " << kName << ": adapter: " << Remark(all.auto_choice(), all.adapter())
           << "\n";
  }
  if (const std::string policies = Remark(all.policies()); !policies.empty())
    io.err << "conclave " << kName << ": policies: " << policies << "\n";
}

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
               {"request_id", all.request_id()},
               {"adapter", all.adapter().empty() ? Json(nullptr) : Json(all.adapter())},
               {"auto", all.has_auto_choice() ? ChoiceOf(all.auto_choice()) : Json(nullptr)},
               {"policies", NamesOf(all.policies())}};
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
  if (json) {
    PrintJson(all, request, io);
  } else {
    PrintRemarks(all[0].all, io);
  }
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
