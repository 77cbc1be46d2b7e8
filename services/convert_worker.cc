#include "services/convert_worker.h"

#include <chrono>
#include <limits>
#include <string>

#include "absl/strings/str_format.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using scheduler::Micros;

// Longer than anything runs; keeps sums of times from overflowing.
constexpr Micros kMaxTimeout = std::chrono::hours(24 * 365);

absl::StatusOr<int32_t> ToInt32(const char* field, uint32_t value) {
  if (value > static_cast<uint32_t>(std::numeric_limits<int32_t>::max())) {
    return absl::InvalidArgumentError(absl::StrFormat("%s is %u, too large", field, value));
  }
  return static_cast<int32_t>(value);
}

template <typename Repeated>
absl::Status CopyTokens(const char* field, const Repeated& ids,
                        std::vector<scheduler::TokenId>& tokens) {
  tokens.reserve(static_cast<size_t>(ids.size()));
  for (const uint32_t id : ids) {
    CONCLAVE_ASSIGN_OR_RETURN(const int32_t token, ToInt32(field, id));
    tokens.push_back(token);
  }
  return absl::OkStatus();
}

void ToProto(const worker::Logprob& logprob, v1::TokenLogprob& proto) {
  proto.set_token_id(static_cast<uint32_t>(logprob.token));
  proto.set_logprob(logprob.logprob);
  for (const auto& [token, value] : logprob.top) {
    v1::TokenLogprob::Candidate& candidate = *proto.add_top();
    candidate.set_token_id(static_cast<uint32_t>(token));
    candidate.set_logprob(value);
  }
}

// Both ends are little-endian machines; the message says little-endian.
template <typename T>
void AppendBytes(const std::vector<T>& values, std::string& bytes) {
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

void ToProto(const worker::RoutingRecord& routing, const worker::Model& model, v1::Routing& proto) {
  if (proto.layers() == 0) {
    proto.set_top_k(static_cast<uint32_t>(model.spec.gate.top_k));
    proto.set_experts(static_cast<uint32_t>(model.spec.gate.slots));
    for (size_t i = 0; i < model.spec.layers.size(); ++i) {
      if (model.spec.layers[i].moe) proto.add_layer_indices(static_cast<uint32_t>(i));
    }
    proto.set_layers(static_cast<uint32_t>(proto.layer_indices_size()));
  }
  AppendBytes(routing.slots, *proto.mutable_slots());
  AppendBytes(routing.weights, *proto.mutable_weights());
}

v1::End::Reason ToProto(scheduler::FinishReason reason) {
  switch (reason) {
    case scheduler::FinishReason::kStop:
      return v1::End::STOP;
    case scheduler::FinishReason::kLength:
      return v1::End::LENGTH;
    case scheduler::FinishReason::kScored:
      return v1::End::SCORED;
  }
  return v1::End::REASON_UNSPECIFIED;
}

void SetError(const absl::Status& status, v1::End& end) {
  end.set_reason(v1::End::ERROR);
  end.set_code(static_cast<int32_t>(status.code()));
  end.set_message(std::string(status.message()));
}

}  // namespace

absl::StatusOr<worker::SequenceRequest> ToSequenceRequest(const v1::Submit& submit, Micros now) {
  worker::SequenceRequest request;
  request.id = submit.sequence();
  // NAME@DIGEST: the name is for who reads the message.
  request.adapter = submit.adapter().substr(submit.adapter().rfind('@') + 1);
  CONCLAVE_RETURN_IF_ERROR(CopyTokens("prompt", submit.prompt(), request.prompt));
  CONCLAVE_RETURN_IF_ERROR(CopyTokens("generated", submit.generated(), request.generated));
  CONCLAVE_ASSIGN_OR_RETURN(request.prompt_logprobs_told,
                            ToInt32("prompt_logprobs_told", submit.prompt_logprobs_told()));
  CONCLAVE_ASSIGN_OR_RETURN(request.routing_told, ToInt32("routing_told", submit.routing_told()));
  request.temperature = submit.temperature();
  request.top_p = submit.top_p();
  CONCLAVE_ASSIGN_OR_RETURN(request.top_k, ToInt32("top_k", submit.top_k()));
  request.seed = submit.seed();
  request.min_p = submit.min_p();
  if (submit.has_repetition_penalty()) request.repetition_penalty = submit.repetition_penalty();
  request.presence_penalty = submit.presence_penalty();
  request.frequency_penalty = submit.frequency_penalty();
  for (const auto& [id, bias] : submit.logit_bias()) {
    CONCLAVE_ASSIGN_OR_RETURN(const int32_t token, ToInt32("logit_bias", id));
    request.logit_bias.emplace_back(token, bias);
  }
  CONCLAVE_ASSIGN_OR_RETURN(request.max_tokens, ToInt32("max_tokens", submit.max_tokens()));
  CONCLAVE_ASSIGN_OR_RETURN(request.min_tokens, ToInt32("min_tokens", submit.min_tokens()));
  CONCLAVE_RETURN_IF_ERROR(
      CopyTokens("stop_token_ids", submit.stop_token_ids(), request.stop_tokens));
  if (submit.has_logprobs()) {
    CONCLAVE_ASSIGN_OR_RETURN(request.logprobs, ToInt32("logprobs", submit.logprobs()));
  }
  request.prompt_logprobs = submit.prompt_logprobs();
  request.routing = submit.routing();
  request.reads_at_once = submit.reads_at_once();
  request.cache_salt = submit.cache_salt();
  request.name = submit.request_id();
  if (submit.has_take_over()) {
    CONCLAVE_ASSIGN_OR_RETURN(request.take_over, ToInt32("take_over", submit.take_over()));
  }
  if (submit.has_timeout_us()) {
    const auto limit = static_cast<uint64_t>(kMaxTimeout.count());
    request.deadline = now + Micros(static_cast<int64_t>(std::min(submit.timeout_us(), limit)));
  }
  return request;
}

void ToProto(const worker::SequenceEvent& event, const worker::Model& model,
             v1::SequenceEvent& proto) {
  proto.set_sequence(event.id);
  for (const scheduler::TokenId token : event.replayed)
    proto.add_replayed(static_cast<uint32_t>(token));
  for (const scheduler::TokenId token : event.tokens)
    proto.add_tokens(static_cast<uint32_t>(token));
  if (event.cached_prompt_tokens > 0) {
    proto.set_cached_prompt_tokens(static_cast<uint32_t>(event.cached_prompt_tokens));
  }
  for (const worker::Logprob& logprob : event.logprobs) ToProto(logprob, *proto.add_logprobs());
  for (const worker::Logprob& logprob : event.prompt_logprobs)
    ToProto(logprob, *proto.add_prompt_logprobs());
  if (event.routing.tokens > 0) ToProto(event.routing, model, *proto.mutable_routing());
  if (!event.end) return;
  if (event.end->status.ok()) {
    proto.mutable_end()->set_reason(ToProto(event.end->reason));
  } else {
    SetError(event.end->status, *proto.mutable_end());
    proto.mutable_end()->set_lacks_expert(event.end->lacks_expert);
    proto.mutable_end()->set_lacks_adapter(event.end->lacks_adapter);
  }
}

size_t BytesOf(const worker::SequenceEvent& event) {
  size_t bytes =
      sizeof(event) + (event.replayed.size() + event.tokens.size()) * sizeof(scheduler::TokenId) +
      event.routing.slots.size() * sizeof(uint16_t) + event.routing.weights.size() * sizeof(float);
  for (const auto* logprobs : {&event.logprobs, &event.prompt_logprobs}) {
    for (const worker::Logprob& logprob : *logprobs) {
      bytes += sizeof(logprob) + logprob.top.size() * sizeof(logprob.top[0]);
    }
  }
  return bytes + (event.end ? event.end->status.message().size() : 0);
}

v1::ModelInfo ToProto(const worker::Engine& engine) {
  const worker::ModelSpec& spec = engine.model().spec;
  v1::ModelInfo info;
  info.set_name(spec.name);
  info.set_family(spec.family);
  info.set_digest(engine.model().digest);
  info.set_numerics(engine.numerics());
  if (engine.options().experts.returns == worker::Returns::kSums)
    info.add_policies(v1::POLICY_PARTIAL_SUMS);
  info.set_vocab_size(static_cast<uint32_t>(spec.vocab));
  info.set_context_limit(static_cast<uint32_t>(engine.options().context_limit));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    if (spec.layers[i].moe) info.add_moe_layer_indices(static_cast<uint32_t>(i));
  }
  info.set_moe_layers(static_cast<uint32_t>(info.moe_layer_indices_size()));
  info.set_experts(static_cast<uint32_t>(spec.gate.slots));
  info.set_top_k(static_cast<uint32_t>(spec.gate.top_k));
  for (const int32_t token : spec.eos) info.add_eos_token_ids(static_cast<uint32_t>(token));
  const worker::GenerationDefaults& generation = spec.generation;
  info.set_default_temperature(generation.temperature);
  info.set_default_top_p(generation.top_p);
  info.set_default_top_k(static_cast<uint32_t>(generation.top_k));
  info.set_default_min_p(generation.min_p);
  info.set_default_repetition_penalty(generation.repetition_penalty);
  info.set_default_max_tokens(static_cast<uint32_t>(generation.max_new_tokens));
  const worker::CheckpointDigest& checkpoint = engine.model().checkpoint;
  info.set_dense_digest(checkpoint.dense);
  for (const std::string& layer : checkpoint.layers) info.add_layer_digests(layer);
  return info;
}

v1::WorkerLoad ToProto(const worker::Engine::Stats& stats) {
  v1::WorkerLoad load;
  load.set_running(static_cast<uint32_t>(stats.planner.running));
  load.set_waiting(static_cast<uint32_t>(stats.planner.waiting));
  load.set_kv_blocks_used(static_cast<uint32_t>(stats.planner.blocks_used));
  load.set_kv_blocks(static_cast<uint32_t>(stats.planner.blocks));
  load.set_draining(stats.draining);
  load.set_lacks(stats.lacks);
  return load;
}

}  // namespace conclave::services
