#pragma once
// A client's request as plain data, before anything about it has been believed. Any thread.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "router/adapter_names.h"
#include "router/auto_adapter.h"
#include "router/chat/conversation.h"
#include "scheduler/types.h"

namespace conclave::router {

struct Prompt {
  enum class Kind : uint8_t { kMissing, kText, kTokens, kChat };

  Kind kind = Kind::kMissing;
  std::string text;              // kText: any bytes
  std::vector<uint32_t> tokens;  // kTokens: as sent, not yet checked against a vocabulary
  std::shared_ptr<const chat::Conversation> chat;  // kChat: not null
  bool parse_special = false;  // text: special tokens spelled out are recognised; chat: also those
                               // that the client wrote
  bool add_special = true;     // text: with what the tokenizer adds by itself
};

struct Request {
  enum class Kind : uint8_t { kGenerate, kScore };

  Kind kind = Kind::kGenerate;
  std::string id;       // empty: the router makes one
  std::string tenant;   // on whose behalf
  std::string model;    // empty: whatever is served
  std::string adapter;  // as the client wrote it; empty: as model or the tenant's default say
  AdapterNames::Version version;  // what they mean: decided once, when it is admitted or, if it is
                                  // open, behind a look at the prompt
  bool open = false;              // they leave it to the router
  std::optional<AutoRecord> choice;  // how that chose; nothing: it has not, or need not
  bool undecided() const { return open && !choice; }
  Prompt prompt;

  std::optional<float> temperature;  // absent: the model's generation_config; 0: greedy
  std::optional<float> top_p;
  std::optional<uint32_t> top_k;  // 0: off
  std::optional<uint64_t> seed;   // absent: the router draws one
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;  // over prompt and output
  float presence_penalty = 0;               // over the output
  float frequency_penalty = 0;
  std::vector<std::pair<uint32_t, float>> logit_bias;  // each token once

  std::optional<uint32_t> max_tokens;
  uint32_t min_tokens = 0;  // that do not end the output
  std::vector<std::string> stop;
  std::vector<uint32_t> stop_tokens;
  bool ignore_eos = false;

  uint32_t completions = 1;
  std::optional<uint32_t> logprobs;  // how many alternatives; of the prompt as well
  bool prompt_logprobs = false;
  bool routing = false;
  bool reads_at_once = false;  // we read what is reported, not a client
  std::string cache_salt;      // any bytes; prompts share computed blocks within one salt only

  // So many tokens of the output the client has: it is told what follows.
  uint32_t resume_from = 0;
  std::vector<uint32_t> received_tokens;  // those, or none
  // Digest of all that was asked for but id, seed, names and where to go on: equal means, with the
  // same version, the same request.
  // Empty: it is like no other.
  std::string body;
};

}  // namespace conclave::router
