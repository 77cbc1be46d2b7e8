#include "loadtest/lengths.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "loadtest/file.h"
#include "loadtest/text.h"
#include "worker/status.h"

namespace conclave::loadtest {
namespace {

absl::StatusOr<uint32_t> Tokens(std::string_view name, std::string_view text) {
  const std::optional<uint32_t> value = ParseNumber<uint32_t>(text);
  if (!value || *value < 1 || *value > Lengths::kMaxTokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: want a whole number in [1, %d]", name, Lengths::kMaxTokens));
  }
  return *value;
}

absl::StatusOr<double> Sigma(std::string_view text) {
  const std::optional<double> value = ParseNumber<double>(text);
  if (!value || *value < 0 || *value > Lengths::kMaxSigma) {
    return absl::InvalidArgumentError(
        absl::StrFormat("SIGMA: want a number in [0, %g]", Lengths::kMaxSigma));
  }
  return *value;
}

}  // namespace

absl::StatusOr<Lengths> Lengths::Parse(const std::string& text, const Limits& limits) {
  constexpr std::string_view kFile = "file:";
  if (text.starts_with(kFile)) {
    CONCLAVE_ASSIGN_OR_RETURN(OneOf lengths, ReadFile(text.substr(kFile.size()), limits));
    return Lengths(std::move(lengths));
  }
  const std::vector<std::string_view> parts = Split(text, ':');
  if (parts.size() == 1 || (parts.size() == 2 && parts[0] == "fixed")) {
    CONCLAVE_ASSIGN_OR_RETURN(const uint32_t length, Tokens("N", parts.back()));
    return Lengths(Even{length, length});
  }
  if (parts.size() == 3 && parts[0] == "uniform") {
    CONCLAVE_ASSIGN_OR_RETURN(const uint32_t low, Tokens("LOW", parts[1]));
    CONCLAVE_ASSIGN_OR_RETURN(const uint32_t high, Tokens("HIGH", parts[2]));
    if (high < low) return absl::InvalidArgumentError("HIGH is below LOW");
    return Lengths(Even{low, high});
  }
  if (parts.size() == 3 && parts[0] == "lognormal") {
    CONCLAVE_ASSIGN_OR_RETURN(const uint32_t median, Tokens("MEDIAN", parts[1]));
    CONCLAVE_ASSIGN_OR_RETURN(const double sigma, Sigma(parts[2]));
    return Lengths(LogNormal{static_cast<double>(median), sigma});
  }
  return absl::InvalidArgumentError(
      "want N, fixed:N, uniform:LOW:HIGH, lognormal:MEDIAN:SIGMA or file:PATH");
}

absl::StatusOr<Lengths::OneOf> Lengths::ReadFile(const std::string& path, const Limits& limits) {
  CONCLAVE_ASSIGN_OR_RETURN(const std::string text, ReadWhole(path, limits.file_bytes));
  auto lengths = std::make_shared<std::vector<uint32_t>>();
  CONCLAVE_RETURN_IF_ERROR(ForEachLine(path, text, [&](size_t, const std::string& line) {
    if (lengths->size() == limits.lines) {
      return absl::InvalidArgumentError(absl::StrFormat("more than %d lengths", limits.lines));
    }
    const absl::StatusOr<uint32_t> length = Tokens("length", line);
    if (length.ok()) lengths->push_back(*length);
    return length.status();
  }));
  if (lengths->empty()) return absl::InvalidArgumentError(absl::StrFormat("%s: no lengths", path));
  return OneOf(std::move(lengths));
}

uint32_t Lengths::Draw(Random& random) const {
  if (const auto* const even = std::get_if<Even>(&law_)) {
    return even->low + Below(random, even->high - even->low + 1);
  }
  if (const auto* const curve = std::get_if<LogNormal>(&law_)) {
    const double length = std::round(curve->median * std::exp(curve->sigma * Normal(random)));
    return static_cast<uint32_t>(std::clamp<double>(length, 1, kMaxTokens));
  }
  const std::vector<uint32_t>& lengths = *std::get<OneOf>(law_);
  return lengths[Below(random, static_cast<uint32_t>(lengths.size()))];
}

}  // namespace conclave::loadtest
