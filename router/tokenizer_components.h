#pragma once
// Reads the components of a tokenizer.json that work on text or on single tokens. What is not
// supported is noted as an error that names it (json_node.h), never ignored.

#include <cstddef>
#include <vector>

#include "router/decoder.h"
#include "router/json_node.h"
#include "router/normalizer.h"
#include "router/pre_tokenizer.h"

namespace conclave::router {

struct ComponentLimits {
  size_t parts_max = 16;  // of a normalizer, a pre_tokenizer or a decoder
  size_t pattern_bytes_max = 64 * 1024;
  size_t content_bytes_max = 256;  // of what is put in the place of something, or before it
};

std::vector<Normalizer::Step> ReadNormalizer(const JsonNode& normalizer,
                                             const ComponentLimits& limits);

struct PreTokenizerParts {
  std::vector<PreTokenizer::Stage> stages;
  bool byte_level = false;  // the vocabulary is of bytes, written in GPT-2's alphabet
};
PreTokenizerParts ReadPreTokenizer(const JsonNode& pre_tokenizer, const ComponentLimits& limits);

struct DecoderParts {
  std::vector<Decoder::Step> steps;
  Decoder::Trim trim;
};
DecoderParts ReadDecoder(const JsonNode& decoder, const ComponentLimits& limits);

}  // namespace conclave::router
