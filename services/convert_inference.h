#pragma once
// Between the wire's messages and the router's plain structs, both ways; nothing else in the router
// converts. Values are taken over as they are: what a request may ask is router/request_limits.h's
// business. Any thread.

#include <grpcpp/support/byte_buffer.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "conclave/v1/inference.pb.h"
#include "conclave/v1/worker.pb.h"
#include "router/chat/conversation.h"
#include "router/delta.h"
#include "router/request.h"
#include "scheduler/types.h"

namespace conclave::services {

// The message in `buffer`; INVALID_ARGUMENT if it is none (cut off, nested too deep, a string that
// is not UTF-8).
template <typename Message>
absl::StatusOr<Message> ParseMessage(const grpc::ByteBuffer& buffer);
// The conversation in `buffer`, if it has no more messages than the limits: they are counted before
// memory is taken for them.
absl::StatusOr<v1::ChatRequest> ParseChat(const grpc::ByteBuffer& buffer,
                                          const router::chat::ConversationLimits& limits);
template <typename Message>
grpc::ByteBuffer SerializeMessage(const Message& message);

router::Prompt ToPrompt(v1::Prompt prompt);
router::Request ToRequest(v1::GenerateRequest request);
router::Request ToRequest(v1::ScoreRequest request);
// INVALID_ARGUMENT for a prompt beside the messages, a part of no kind that is known, or, before
// anything is made of them, more parts or calls than the limits.
absl::StatusOr<router::Request> ToRequest(v1::ChatRequest request,
                                          const router::chat::ConversationLimits& limits);

// Workers that agree on this compute the same tokens.
std::string ModelKey(const v1::ModelInfo& model);

// What a worker says of a sequence. INTERNAL for what no honest worker sends: a token outside the
// vocabulary, an end without a reason. An end in error is not an error of the message: `end` is
// absent then, see EndError.
absl::StatusOr<router::SequenceEvent> ToSequenceEvent(const v1::SequenceEvent& event,
                                                      uint32_t vocab_size);
// The error an event ends with; OK if it ends in none.
absl::Status EndError(const v1::SequenceEvent& event);

// A sequence as a worker is to run it: the request with everything decided.
struct Assignment {
  std::vector<scheduler::TokenId> prompt;
  float temperature = 0;
  float top_p = 1;
  uint32_t top_k = 0;
  uint64_t seed = 0;
  float min_p = 0;
  float repetition_penalty = 1;
  int32_t max_tokens = 0;
  std::vector<uint32_t> stop_tokens;
};
// The model's defaults where the request says nothing, its end-of-sequence tokens unless told to
// ignore them.
Assignment Assign(const router::Request& request, std::vector<scheduler::TokenId> prompt,
                  int32_t max_tokens, uint64_t seed, const v1::ModelInfo& model);
// What of a sequence is known already: it goes on behind that.
struct Progress {
  std::span<const scheduler::TokenId> tokens;  // of the output
  int32_t prompt_logprobs = 0;                 // how many of the prompt's were told
  int32_t routing = 0;                         // of how many positions it was
};
v1::Submit ToSubmit(const router::Request& request, const Assignment& assignment,
                    const Progress& told, std::optional<std::chrono::microseconds> timeout);

v1::GenerateResponse ToGenerateResponse(const router::Delta& delta);
v1::ScoreResponse ToScoreResponse(const router::Delta& delta);
v1::AutoChoice ToProto(const router::AutoRecord& choice);
v1::Model ToModel(const v1::ModelInfo& model, const std::string& name);

}  // namespace conclave::services
