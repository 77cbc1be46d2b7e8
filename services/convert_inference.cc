#include "services/convert_inference.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/slice.h>
#include <openssl/sha.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/grpc_status.h"

namespace conclave::services {
namespace {

using scheduler::FinishReason;
using scheduler::TokenId;

std::vector<uint32_t> Ids(const google::protobuf::RepeatedField<uint32_t>& ids) {
  return {ids.begin(), ids.end()};
}

router::Logprob ToLogprob(const v1::TokenLogprob& from) {
  router::Logprob to{static_cast<TokenId>(from.token_id()), from.logprob(), {}};
  to.top.reserve(static_cast<size_t>(from.top_size()));
  for (const auto& candidate : from.top()) {
    to.top.emplace_back(static_cast<TokenId>(candidate.token_id()), candidate.logprob());
  }
  return to;
}

std::vector<router::Logprob> ToLogprobs(
    const google::protobuf::RepeatedPtrField<v1::TokenLogprob>& from) {
  std::vector<router::Logprob> to;
  to.reserve(static_cast<size_t>(from.size()));
  for (const v1::TokenLogprob& logprob : from) to.push_back(ToLogprob(logprob));
  return to;
}

void FromLogprobs(const std::vector<router::Logprob>& from,
                  google::protobuf::RepeatedPtrField<v1::TokenLogprob>* to) {
  to->Reserve(static_cast<int>(from.size()));
  for (const router::Logprob& logprob : from) {
    v1::TokenLogprob* const added = to->Add();
    added->set_token_id(static_cast<uint32_t>(logprob.token));
    added->set_logprob(logprob.logprob);
    for (const auto& [token, value] : logprob.top) {
      auto* const candidate = added->add_top();
      candidate->set_token_id(static_cast<uint32_t>(token));
      candidate->set_logprob(value);
    }
  }
}

router::Routing ToRouting(const v1::Routing& from) {
  return {.layers = from.layers(),
          .top_k = from.top_k(),
          .experts = from.experts(),
          .slots = from.slots(),
          .weights = from.weights(),
          .layer_indices = Ids(from.layer_indices())};
}

void FromRouting(const router::Routing& from, v1::Routing* to) {
  to->set_layers(from.layers);
  to->set_top_k(from.top_k);
  to->set_experts(from.experts);
  to->set_slots(from.slots);
  to->set_weights(from.weights);
  to->mutable_layer_indices()->Assign(from.layer_indices.begin(), from.layer_indices.end());
}

absl::StatusOr<router::chat::Message> ToChatMessage(v1::ChatMessage from,
                                                    const std::string& field) {
  router::chat::Message to;
  to.role = from.role();
  if (from.has_content()) to.content = std::move(*from.mutable_content());
  for (int i = 0; i < from.parts_size(); ++i) {
    if (!from.parts(i).has_text()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s.parts[%d] is not text, which is all that is served", field, i));
    }
    to.parts.push_back(std::move(*from.mutable_parts(i)->mutable_text()));
  }
  to.name = from.name();
  to.tool_call_id = from.tool_call_id();
  if (from.has_reasoning()) to.reasoning = std::move(*from.mutable_reasoning());
  for (v1::ToolCall& call : *from.mutable_tool_calls()) {
    to.tool_calls.push_back({call.id(), call.name(), std::move(*call.mutable_arguments())});
  }
  to.fields = std::move(*from.mutable_fields());
  return to;
}

// What `from` says of this one stream, and from then on no longer says.
router::Request TakeStream(v1::GenerateRequest& from) {
  router::Request to{.id = from.request_id(), .model = from.model(), .adapter = from.adapter()};
  to.resume_from = from.resume_from();
  to.received_tokens = Ids(from.received_token_ids());
  if (from.sampling().has_seed()) to.seed = from.sampling().seed();
  from.clear_request_id();
  from.clear_model();
  from.clear_adapter();
  from.clear_resume_from();
  from.clear_received_token_ids();
  from.mutable_sampling()->clear_seed();
  return to;
}

// Its digest; a map is put in order.
std::string BodyOf(const google::protobuf::Message& message) {
  std::string bytes = message.GetDescriptor()->name();
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream out(&stream);
    out.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&out);
  }
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

absl::StatusOr<FinishReason> ToFinishReason(v1::End::Reason reason) {
  switch (reason) {
    case v1::End::STOP:
      return FinishReason::kStop;
    case v1::End::LENGTH:
      return FinishReason::kLength;
    case v1::End::SCORED:
      return FinishReason::kScored;
    default:
      return absl::InternalError(
          absl::StrFormat("a worker ended a sequence with the unknown reason %d", reason));
  }
}

}  // namespace

template <typename Message>
absl::StatusOr<Message> ParseMessage(const grpc::ByteBuffer& buffer) {
  Message message;
  grpc::ByteBuffer copy(buffer);  // shares the bytes
  grpc::ProtoBufferReader reader(&copy);
  if (!reader.status().ok() || !message.ParseFromZeroCopyStream(&reader)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("not a %s: the message is malformed, or a string field is not UTF-8",
                        Message::descriptor()->full_name()));
  }
  return message;
}

namespace {

// How often a field stands in a message, as far as that is one.
int64_t CountField(const grpc::ByteBuffer& buffer, int field) {
  using google::protobuf::internal::WireFormatLite;
  grpc::ByteBuffer copy(buffer);  // shares the bytes
  grpc::ProtoBufferReader reader(&copy);
  if (!reader.status().ok()) return 0;
  google::protobuf::io::CodedInputStream in(&reader);
  int64_t count = 0;
  while (const uint32_t tag = in.ReadTag()) {
    count += WireFormatLite::GetTagFieldNumber(tag) == field;
    if (!WireFormatLite::SkipField(&in, tag)) break;
  }
  return count;
}

}  // namespace

absl::StatusOr<v1::ChatRequest> ParseChat(const grpc::ByteBuffer& buffer,
                                          const router::chat::ConversationLimits& limits) {
  const int64_t messages = CountField(buffer, v1::ChatRequest::kMessagesFieldNumber);
  if (messages > limits.messages) {
    return absl::InvalidArgumentError(*router::chat::CheckMessageCount(messages, limits));
  }
  return ParseMessage<v1::ChatRequest>(buffer);
}

template <typename Message>
grpc::ByteBuffer SerializeMessage(const Message& message) {
  grpc::Slice slice(message.ByteSizeLong());
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

template absl::StatusOr<v1::GenerateRequest> ParseMessage(const grpc::ByteBuffer&);
template absl::StatusOr<v1::ScoreRequest> ParseMessage(const grpc::ByteBuffer&);
template absl::StatusOr<v1::TokenizeRequest> ParseMessage(const grpc::ByteBuffer&);
template absl::StatusOr<v1::DetokenizeRequest> ParseMessage(const grpc::ByteBuffer&);
template absl::StatusOr<v1::ListModelsRequest> ParseMessage(const grpc::ByteBuffer&);
template grpc::ByteBuffer SerializeMessage(const v1::GenerateResponse&);
template grpc::ByteBuffer SerializeMessage(const v1::ScoreResponse&);
template grpc::ByteBuffer SerializeMessage(const v1::TokenizeResponse&);
template grpc::ByteBuffer SerializeMessage(const v1::DetokenizeResponse&);
template grpc::ByteBuffer SerializeMessage(const v1::ListModelsResponse&);

router::Prompt ToPrompt(v1::Prompt from) {
  router::Prompt to{.parse_special = from.parse_special(), .add_special = !from.no_added_tokens()};
  if (from.has_text()) {
    to.kind = router::Prompt::Kind::kText;
    to.text = std::move(*from.mutable_text());
  } else if (from.has_tokens()) {
    to.kind = router::Prompt::Kind::kTokens;
    to.tokens = Ids(from.tokens().ids());
  }
  return to;
}

namespace {

void FillRequest(v1::GenerateRequest from, router::Request& to) {
  to.prompt = ToPrompt(std::move(*from.mutable_prompt()));
  const v1::Sampling& sampling = from.sampling();
  if (sampling.has_temperature()) to.temperature = sampling.temperature();
  if (sampling.has_top_p()) to.top_p = sampling.top_p();
  if (sampling.has_top_k()) to.top_k = sampling.top_k();
  if (sampling.has_min_p()) to.min_p = sampling.min_p();
  if (sampling.has_repetition_penalty()) to.repetition_penalty = sampling.repetition_penalty();
  to.presence_penalty = sampling.presence_penalty();
  to.frequency_penalty = sampling.frequency_penalty();
  to.logit_bias.assign(sampling.logit_bias().begin(), sampling.logit_bias().end());
  // A map's order is its own; messages about it should not be.
  std::sort(to.logit_bias.begin(), to.logit_bias.end());
  const v1::Stopping& stopping = from.stopping();
  if (stopping.has_max_tokens()) to.max_tokens = stopping.max_tokens();
  to.min_tokens = stopping.min_tokens();
  to.stop.assign(stopping.stop().begin(), stopping.stop().end());
  to.stop_tokens = Ids(stopping.stop_token_ids());
  to.ignore_eos = stopping.ignore_eos();
  if (from.has_n()) to.completions = from.n();
  if (from.has_logprobs()) to.logprobs = from.logprobs();
  to.prompt_logprobs = from.prompt_logprobs();
  to.cache_salt = std::move(*from.mutable_cache_salt());
}

}  // namespace

router::Request ToRequest(v1::GenerateRequest from) {
  router::Request to = TakeStream(from);
  to.body = BodyOf(from);
  FillRequest(std::move(from), to);
  return to;
}

router::Request ToRequest(v1::ScoreRequest from) {
  return {.kind = router::Request::Kind::kScore,
          .id = from.request_id(),
          .model = from.model(),
          .adapter = from.adapter(),
          .prompt = ToPrompt(std::move(*from.mutable_prompt())),
          .logprobs = from.top_logprobs(),
          .prompt_logprobs = true,
          .routing = from.routing(),
          .cache_salt = from.cache_salt()};
}

namespace {

std::string FieldOfMessage(int i) { return absl::StrFormat("messages[%d]", i); }

absl::Status CheckPartCounts(const v1::ChatRequest& request,
                             const router::chat::ConversationLimits& limits) {
  for (int i = 0; i < request.messages_size(); ++i) {
    const v1::ChatMessage& message = request.messages(i);
    const auto problem = router::chat::CheckPartCounts(FieldOfMessage(i), message.parts_size(),
                                                       message.tool_calls_size(), limits);
    if (problem) return absl::InvalidArgumentError(*problem);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<router::Request> ToRequest(v1::ChatRequest from,
                                          const router::chat::ConversationLimits& limits) {
  if (from.generate().has_prompt()) {
    return absl::InvalidArgumentError(
        "generate.prompt: leave it out; the prompt is made of the messages");
  }
  if (absl::Status counts = CheckPartCounts(from, limits); !counts.ok()) return counts;
  router::Request to = TakeStream(*from.mutable_generate());
  to.body = BodyOf(from);
  auto chat = std::make_shared<router::chat::Conversation>();
  for (int i = 0; i < from.messages_size(); ++i) {
    absl::StatusOr<router::chat::Message> message =
        ToChatMessage(std::move(*from.mutable_messages(i)), FieldOfMessage(i));
    if (!message.ok()) return message.status();
    chat->messages.push_back(*std::move(message));
  }
  chat->tools = std::move(*from.mutable_tools());
  chat->documents = std::move(*from.mutable_documents());
  chat->arguments = std::move(*from.mutable_template_arguments());
  chat->template_name = from.template_name();
  if (from.has_add_generation_prompt()) chat->add_generation_prompt = from.add_generation_prompt();
  chat->continue_final_message = from.continue_final_message();
  FillRequest(std::move(*from.mutable_generate()), to);
  to.prompt = {.kind = router::Prompt::Kind::kChat,
               .chat = std::move(chat),
               .parse_special = from.parse_special()};
  return to;
}

std::string ModelKey(const v1::ModelInfo& model) {
  return absl::StrFormat("%s/%s/%s", model.name(), model.digest(), model.numerics());
}

absl::StatusOr<router::SequenceEvent> ToSequenceEvent(const v1::SequenceEvent& from,
                                                      uint32_t vocab_size) {
  router::SequenceEvent to;
  to.tokens.reserve(static_cast<size_t>(from.replayed_size() + from.tokens_size()));
  for (const auto* const tokens : {&from.replayed(), &from.tokens()}) {
    for (const uint32_t token : *tokens) {
      if (token >= vocab_size) {
        return absl::InternalError(absl::StrFormat(
            "a worker sampled token %u, the vocabulary has %u tokens", token, vocab_size));
      }
      to.tokens.push_back(static_cast<TokenId>(token));
    }
  }
  to.logprobs = ToLogprobs(from.logprobs());
  to.prompt_logprobs = ToLogprobs(from.prompt_logprobs());
  if (from.has_routing()) to.routing = ToRouting(from.routing());
  to.cached_prompt_tokens = from.cached_prompt_tokens();
  if (from.has_end() && from.end().reason() != v1::End::ERROR) {
    const absl::StatusOr<FinishReason> reason = ToFinishReason(from.end().reason());
    if (!reason.ok()) return reason.status();
    to.end = *reason;
  }
  return to;
}

absl::Status EndError(const v1::SequenceEvent& event) {
  if (!event.has_end() || event.end().reason() != v1::End::ERROR) return absl::OkStatus();
  return FromCode(event.end().code(), event.end().message());
}

Assignment Assign(const router::Request& request, std::vector<TokenId> prompt, int32_t max_tokens,
                  uint64_t seed, const v1::ModelInfo& model) {
  // A model that names none leaves the field at zero, which is no value for either.
  const float top_p = model.default_top_p() > 0 ? model.default_top_p() : 1.0f;
  const float repetition =
      model.default_repetition_penalty() > 0 ? model.default_repetition_penalty() : 1.0f;
  Assignment to{.prompt = std::move(prompt),
                .temperature = request.temperature.value_or(model.default_temperature()),
                .top_p = request.top_p.value_or(top_p),
                .top_k = request.top_k.value_or(model.default_top_k()),
                .seed = seed,
                .min_p = request.min_p.value_or(model.default_min_p()),
                .repetition_penalty = request.repetition_penalty.value_or(repetition),
                .max_tokens = max_tokens,
                .stop_tokens = request.stop_tokens};
  if (!request.ignore_eos) {
    to.stop_tokens.insert(to.stop_tokens.end(), model.eos_token_ids().begin(),
                          model.eos_token_ids().end());
  }
  return to;
}

v1::Submit ToSubmit(const router::Request& request, const Assignment& assignment,
                    const Progress& told, std::optional<std::chrono::microseconds> timeout) {
  v1::Submit to;
  to.set_adapter(request.version.ToString());
  to.mutable_prompt()->Assign(assignment.prompt.begin(), assignment.prompt.end());
  to.mutable_generated()->Assign(told.tokens.begin(), told.tokens.end());
  if (request.completions == 1) to.set_request_id(request.id);
  if (told.tokens.empty() && request.resume_from > 0) to.set_take_over(request.resume_from);
  to.set_prompt_logprobs_told(static_cast<uint32_t>(told.prompt_logprobs));
  to.set_routing_told(static_cast<uint32_t>(told.routing));
  to.set_temperature(assignment.temperature);
  to.set_top_p(assignment.top_p);
  to.set_top_k(assignment.top_k);
  to.set_seed(assignment.seed);
  to.set_min_p(assignment.min_p);
  to.set_repetition_penalty(assignment.repetition_penalty);
  to.set_presence_penalty(request.presence_penalty);
  to.set_frequency_penalty(request.frequency_penalty);
  to.mutable_logit_bias()->insert(request.logit_bias.begin(), request.logit_bias.end());
  to.set_max_tokens(static_cast<uint32_t>(assignment.max_tokens));
  to.set_min_tokens(request.min_tokens);
  to.mutable_stop_token_ids()->Assign(assignment.stop_tokens.begin(), assignment.stop_tokens.end());
  if (request.logprobs) to.set_logprobs(*request.logprobs);
  to.set_prompt_logprobs(request.prompt_logprobs);
  to.set_routing(request.routing);
  to.set_reads_at_once(request.reads_at_once);
  to.set_cache_salt(request.cache_salt);
  if (timeout) to.set_timeout_us(static_cast<uint64_t>(timeout->count()));
  return to;
}

v1::GenerateResponse ToGenerateResponse(const router::Delta& delta) {
  v1::GenerateResponse to;
  to.set_text(delta.text);
  to.mutable_token_ids()->Assign(delta.tokens.begin(), delta.tokens.end());
  FromLogprobs(delta.logprobs, to.mutable_logprobs());
  FromLogprobs(delta.prompt_logprobs, to.mutable_prompt_logprobs());
  if (!delta.finish) return to;
  const router::Finish& finish = *delta.finish;
  to.set_finish_reason(finish.reason == FinishReason::kLength ? v1::FINISH_REASON_LENGTH
                                                              : v1::FINISH_REASON_STOP);
  if (finish.stop_token) to.set_stop_token_id(static_cast<uint32_t>(*finish.stop_token));
  to.set_stop_string(finish.stop_string);
  to.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(finish.prompt_tokens));
  to.mutable_usage()->set_completion_tokens(static_cast<uint32_t>(finish.completion_tokens));
  to.mutable_usage()->set_cached_prompt_tokens(static_cast<uint32_t>(finish.cached_prompt_tokens));
  return to;
}

v1::ScoreResponse ToScoreResponse(const router::Delta& delta) {
  v1::ScoreResponse to;
  FromLogprobs(delta.prompt_logprobs, to.mutable_logprobs());
  if (delta.routing) FromRouting(*delta.routing, to.mutable_routing());
  to.set_done(delta.finish.has_value());
  return to;
}

v1::AutoChoice ToProto(const router::AutoRecord& choice) {
  v1::AutoChoice to;
  to.set_best(choice.best);
  to.set_share(choice.share);
  to.set_margin(choice.margin);
  to.set_least_margin(choice.least_margin);
  to.set_tokens(choice.tokens);
  to.set_probe_us(choice.probe_us);
  return to;
}

v1::Model ToModel(const v1::ModelInfo& from, const std::string& name) {
  v1::Model to;
  to.set_name(name);
  to.set_family(from.family());
  to.set_context_limit(from.context_limit());
  to.set_vocab_size(from.vocab_size());
  to.set_numerics(from.numerics());
  *to.mutable_policies() = from.policies();
  return to;
}

}  // namespace conclave::services
