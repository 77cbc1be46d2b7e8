#pragma once
// Compares a stream with what its prompt says must come, as it comes: nothing is kept but how far
// they agree. A stream that ends early (cancelled, refused) is right as far as it goes. One thread
// at a time; the prompt must outlive it.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "loadtest/prompts.h"

namespace conclave::loadtest {

class Expectation {
 public:
  explicit Expectation(const Prompt& prompt) : prompt_(prompt) {}

  bool any() const { return prompt_.expect_text || prompt_.expect_token_ids; }
  void Take(std::string_view text, std::span<const uint32_t> token_ids);
  // The first difference, or nothing. `whole`: the stream is complete, so what is missing counts.
  std::optional<std::string> Difference(bool whole) const;

 private:
  void TakeText(std::string_view text);
  void TakeTokens(std::span<const uint32_t> token_ids);

  const Prompt& prompt_;
  size_t text_bytes_ = 0;
  size_t tokens_ = 0;
  std::optional<std::string> difference_;
};

}  // namespace conclave::loadtest
