#include "loadtest/adapter_mix.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <string_view>

#include "absl/strings/str_format.h"
#include "loadtest/file.h"
#include "loadtest/text.h"
#include "worker/status.h"

namespace conclave::loadtest {
namespace {

using Weights = AdapterMix::Weights;

// What is left of `text` behind `prefix`.
bool TakePrefix(std::string_view prefix, std::string_view* text) {
  if (!text->starts_with(prefix)) return false;
  text->remove_prefix(prefix.size());
  return true;
}

absl::StatusOr<double> Number(std::string_view name, std::string_view text) {
  const std::optional<double> value = ParseNumber<double>(text);
  if (value) return *value;
  return absl::InvalidArgumentError(absl::StrFormat("%s: want a number", name));
}

absl::StatusOr<Weights> Zipf(std::string_view text) {
  const size_t colon = std::min(text.find(':'), text.size());
  CONCLAVE_ASSIGN_OR_RETURN(const double exponent, Number("S", text.substr(0, colon)));
  if (exponent < 0 || exponent > AdapterMix::kMaxExponent) {
    return absl::InvalidArgumentError(
        absl::StrFormat("S: out of range [0, %g]", AdapterMix::kMaxExponent));
  }
  Weights weights;
  for (const std::string_view name : Split(text.substr(std::min(colon + 1, text.size())), ',')) {
    const auto place = static_cast<double>(weights.size() + 1);
    weights.emplace_back(name, std::pow(place, -exponent));
  }
  return weights;
}

absl::StatusOr<Weights> Given(std::string_view text) {
  Weights weights;
  for (const std::string_view item : Split(text, ',')) {
    const size_t equals = item.rfind('=');
    if (equals == item.npos) return absl::InvalidArgumentError("want NAME=WEIGHT,...");
    CONCLAVE_ASSIGN_OR_RETURN(const double weight, Number("weight", item.substr(equals + 1)));
    weights.emplace_back(item.substr(0, equals), weight);
  }
  return weights;
}

absl::StatusOr<Weights> ReadFile(const std::string& path) {
  CONCLAVE_ASSIGN_OR_RETURN(const std::string text, ReadWhole(path, AdapterMix::kMaxFileBytes));
  Weights weights;
  CONCLAVE_RETURN_IF_ERROR(ForEachLine(path, text, [&](size_t, const std::string& line) {
    const std::vector<std::string_view> words = Split(line, ' ');
    if (words.size() != 2) return absl::InvalidArgumentError("want NAME WEIGHT");
    const absl::StatusOr<double> weight = Number("weight", words[1]);
    if (!weight.ok()) return weight.status();
    weights.emplace_back(words[0], *weight);
    return AdapterMix::Make(weights).status();  // so that an error has the line's number
  }));
  return weights;
}

absl::Status CheckName(const std::string& name) {
  const bool printable =
      std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7F; });
  if (!name.empty() && name.size() <= AdapterMix::kMaxNameBytes && printable) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("adapter \"%s\": want 1 to %d printable characters without spaces",
                      Excerpt(name), AdapterMix::kMaxNameBytes));
}

}  // namespace

absl::StatusOr<AdapterMix> AdapterMix::Parse(const std::string& text) {
  std::string_view rest = text;
  absl::StatusOr<Weights> weights;
  if (TakePrefix("uniform:", &rest)) {
    weights.emplace();
    for (const std::string_view name : Split(rest, ',')) weights->emplace_back(name, 1);
  } else if (TakePrefix("zipf:", &rest)) {
    weights = Zipf(rest);
  } else if (TakePrefix("weights:", &rest)) {
    weights = Given(rest);
  } else if (TakePrefix("file:", &rest)) {
    weights = ReadFile(std::string(rest));
  } else {
    return absl::InvalidArgumentError(
        "want uniform:NAME,..., zipf:S:NAME,..., weights:NAME=W,... or file:PATH");
  }
  if (!weights.ok()) return weights.status();
  return Make(*weights);
}

absl::StatusOr<AdapterMix> AdapterMix::Make(const Weights& weights) {
  if (weights.empty()) return absl::InvalidArgumentError("no adapters");
  if (weights.size() > kMaxAdapters) {
    return absl::InvalidArgumentError(absl::StrFormat("more than %d adapters", kMaxAdapters));
  }
  AdapterMix mix;
  double sum = 0;
  std::set<std::string_view> names;
  for (const auto& [name, weight] : weights) {
    CONCLAVE_RETURN_IF_ERROR(CheckName(name));
    if (!names.insert(name).second) {
      return absl::InvalidArgumentError(absl::StrFormat("adapter \"%s\": twice", name));
    }
    if (!(weight > 0) || weight > kMaxWeight) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "adapter \"%s\": weight %g is not above 0 and at most %g", name, weight, kMaxWeight));
    }
    sum += weight;
    mix.up_to_.push_back(sum);
  }
  for (double& up_to : mix.up_to_) up_to /= sum;
  for (const auto& [name, weight] : weights) mix.shares_.emplace_back(name, weight / sum);
  return mix;
}

const std::string& AdapterMix::Draw(Random& random) const {
  const auto found = std::upper_bound(up_to_.begin(), up_to_.end(), Uniform(random));
  // Rounding may leave the last sum below 1.
  const auto index = std::min<std::ptrdiff_t>(found - up_to_.begin(),
                                              static_cast<std::ptrdiff_t>(up_to_.size()) - 1);
  return shares_[static_cast<size_t>(index)].first;
}

}  // namespace conclave::loadtest
