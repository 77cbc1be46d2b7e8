#pragma once
// How long prompts or outputs are, in tokens, where no file of prompts says it:
//   N or fixed:N            always N
//   uniform:LOW:HIGH        each of LOW..HIGH alike
//   lognormal:MEDIAN:SIGMA  exp of a normal of mean ln MEDIAN and deviation SIGMA, rounded, from 1
//   file:PATH               one of the file's whole numbers, a line each, all alike
// Immutable; any thread.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "loadtest/random.h"

namespace conclave::loadtest {

class Lengths {
 public:
  static constexpr uint32_t kMaxTokens = 1 << 20;  // also what a longer draw is cut to
  static constexpr double kMaxSigma = 10;
  struct Limits {
    size_t file_bytes = 16 << 20;
    size_t lines = 1'000'000;
  };

  // INVALID_ARGUMENT or NOT_FOUND, naming the part of the text or file and line.
  static absl::StatusOr<Lengths> Parse(const std::string& text, const Limits& limits);
  static absl::StatusOr<Lengths> Parse(const std::string& text) { return Parse(text, Limits()); }

  uint32_t Draw(Random& random) const;

 private:
  struct Even {  // fixed, too
    uint32_t low = 1;
    uint32_t high = 1;
  };
  struct LogNormal {
    double median = 1;
    double sigma = 0;
  };
  using OneOf = std::shared_ptr<const std::vector<uint32_t>>;
  using Law = std::variant<Even, LogNormal, OneOf>;

  explicit Lengths(Law law) : law_(std::move(law)) {}
  static absl::StatusOr<OneOf> ReadFile(const std::string& path, const Limits& limits);

  Law law_;
};

}  // namespace conclave::loadtest
