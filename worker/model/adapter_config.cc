#include "worker/model/adapter_config.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "worker/model/json.h"

namespace conclave::worker {
namespace {

// A number as it is written in decimal, without sign or leading zeros; or nothing.
std::optional<int32_t> PlainNumber(const std::string& text) {
  int32_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stopped != end || value < 0 || std::to_string(value) != text)
    return std::nullopt;
  return value;
}

// Reads the one structure a config may have, event by event; anything else ends the parse at once.
class ConfigReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit ConfigReader(const AdapterConfigLimits& limits) : limits_(limits) {}

  const std::string& error() const { return error_; }
  AdapterConfig TakeConfig() { return std::move(config_); }

  bool start_object(std::size_t) override {
    switch (at_) {
      case At::kStart:
        at_ = At::kRoot;
        return true;
      case At::kExpertsStart:
        at_ = At::kExperts;
        return true;
      default:
        return Unexpected("an object");
    }
  }
  bool end_object() override {
    if (at_ == At::kExperts) {
      at_ = At::kRoot;
      return true;
    }
    at_ = At::kEnd;
    return seen_.contains("experts") || Fail("/experts is missing");
  }
  bool key(string_t& name) override {
    return at_ == At::kExperts ? StartLayer(name) : StartField(name);
  }
  bool boolean(bool value) override {
    if (at_ != At::kFlag) return Unexpected("a truth value");
    *flag_ = value;
    at_ = At::kRoot;
    return true;
  }
  bool start_array(std::size_t) override {
    if (at_ != At::kLayerStart) return Unexpected("an array");
    at_ = At::kLayer;
    return true;
  }
  bool end_array() override {
    at_ = At::kExperts;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (at_ != At::kLayer) return Unexpected("a number");
    if (value >= static_cast<number_unsigned_t>(limits_.slots)) {
      return Fail("%s is %d, the highest slot there may be is %d", Pointer(), value,
                  limits_.slots - 1);
    }
    if (entries_ == limits_.entries)
      return Fail("%s: more than %d experts are listed", Pointer(), limits_.entries);
    const auto slot = static_cast<int32_t>(value);
    if (!slots_.insert(slot).second) return Fail("%s: %d is listed twice", Pointer(), slot);
    config_.experts[layer_].push_back(slot);
    ++entries_;
    return true;
  }
  bool number_integer(number_integer_t value) override {
    return at_ == At::kLayer ? Fail("%s is %d, no slot", Pointer(), value) : Unexpected("a number");
  }
  bool number_float(number_float_t, const string_t& text) override {
    return at_ == At::kLayer ? Fail("%s is %s, no slot", Pointer(), Printable(text))
                             : Unexpected("a number");
  }
  bool null() override { return Unexpected("null"); }
  bool string(string_t&) override { return Unexpected("a string"); }
  bool binary(binary_t&) override { return Unexpected("binary"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail("is not JSON in UTF-8 at byte %d", position);
  }

 private:
  // What the next event belongs to.
  enum class At : uint8_t {
    kStart,
    kRoot,
    kFlag,
    kExpertsStart,
    kExperts,
    kLayerStart,
    kLayer,
    kEnd
  };

  bool StartField(const std::string& name) {
    if (!seen_.insert(name).second) return Fail("key \"%s\" appears twice", Printable(name));
    if (name == "experts") {
      at_ = At::kExpertsStart;
    } else if (name == "shared_experts") {
      flag_ = &config_.shared_experts;
      at_ = At::kFlag;
    } else if (name == "non_expert_modules") {
      flag_ = &config_.non_expert_modules;
      at_ = At::kFlag;
    } else {
      return Fail("unknown key \"%s\", known are experts, shared_experts, non_expert_modules",
                  Printable(name));
    }
    field_ = name;
    return true;
  }

  bool StartLayer(const std::string& name) {
    const std::optional<int32_t> layer = PlainNumber(name);
    if (!layer || *layer >= limits_.layers) {
      return Fail("/experts/%s: no layer, expected a number from 0 to %d", Printable(name),
                  limits_.layers - 1);
    }
    if (!config_.experts.try_emplace(*layer).second)
      return Fail("/experts/%d appears twice", *layer);
    layer_ = *layer;
    slots_.clear();
    at_ = At::kLayerStart;
    return true;
  }

  // Of what comes next.
  std::string Pointer() const {
    switch (at_) {
      case At::kLayerStart:
        return absl::StrFormat("/experts/%d", layer_);
      case At::kLayer:
        return absl::StrFormat("/experts/%d/%d", layer_, config_.experts.at(layer_).size());
      case At::kFlag:
      case At::kExpertsStart:
        return "/" + field_;
      default:
        return "the document";
    }
  }
  bool Unexpected(const char* what) {
    const char* const expected = at_ == At::kFlag         ? "true or false"
                                 : at_ == At::kLayerStart ? "an array"
                                 : at_ == At::kLayer      ? "a slot"
                                                          : "an object";
    return Fail("%s is %s, expected %s", Pointer(), what, expected);
  }
  template <typename... Args>
  bool Fail(const absl::FormatSpec<Args...>& format, const Args&... args) {
    error_ = absl::StrFormat(format, args...);
    return false;
  }

  const AdapterConfigLimits& limits_;
  At at_ = At::kStart;
  std::unordered_set<std::string> seen_;  // keys of the document
  std::string field_;                     // the last of them
  bool* flag_ = nullptr;
  int32_t layer_ = 0;
  std::unordered_set<int32_t> slots_;  // of that layer
  size_t entries_ = 0;
  AdapterConfig config_;
  std::string error_;
};

}  // namespace

absl::StatusOr<AdapterConfig> ParseAdapterConfig(std::string_view bytes, const std::string& name,
                                                 const AdapterConfigLimits& limits) {
  if (bytes.size() > limits.bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: has %d bytes, the limit is %d", name, bytes.size(), limits.bytes));
  }
  // The parser would take a zero byte for the end and not look at what follows.
  if (const size_t zero = bytes.find('\0'); zero != bytes.npos) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: is not JSON at byte %d: a zero byte", name, zero));
  }
  ConfigReader reader(limits);
  if (!nlohmann::json::sax_parse(bytes.begin(), bytes.end(), &reader))
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", name, reader.error()));
  return reader.TakeConfig();
}

absl::Status CheckAdapterConfig(const AdapterConfig& config, const ModelSpec& base,
                                const std::string& name) {
  const auto refuse = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", name, what));
  };
  if (config.non_expert_modules) {
    return refuse(
        "/non_expert_modules is true: such an adapter changes attention and gates, which all "
        "adapters of a base model share; merge it into a checkpoint of its own");
  }
  if (config.shared_experts && base.shared_ffn_dim == 0) {
    return refuse(absl::StrFormat("/shared_experts is true, %s has no shared experts", base.name));
  }
  size_t replaced = config.shared_experts ? 1 : 0;
  for (const auto& [layer, slots] : config.experts) {
    const auto layers = static_cast<int32_t>(base.layers.size());
    if (layer >= layers) {
      return refuse(
          absl::StrFormat("/experts/%d: %s has layers 0 to %d", layer, base.name, layers - 1));
    }
    if (!slots.empty() && !base.layers[static_cast<size_t>(layer)].moe) {
      return refuse(
          absl::StrFormat("/experts/%d: layer %d of %s has no experts", layer, layer, base.name));
    }
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i] < base.gate.slots) continue;
      return refuse(absl::StrFormat("/experts/%d/%d is %d, layer %d of %s has experts 0 to %d",
                                    layer, i, slots[i], layer, base.name, base.gate.slots - 1));
    }
    replaced += slots.size();
  }
  if (replaced == 0) return refuse("/experts names no expert: there is nothing to replace");
  return absl::OkStatus();
}

std::string AdapterConfigText(const AdapterConfig& config) {
  std::string layers;
  for (const auto& [layer, slots] : config.experts) {
    absl::StrAppendFormat(&layers, "%s\"%d\": [%s]", layers.empty() ? "" : ", ", layer,
                          absl::StrJoin(slots, ", "));
  }
  const auto word = [](bool value) { return value ? "true" : "false"; };
  return absl::StrFormat(
      "{\"experts\": {%s}, \"shared_experts\": %s, \"non_expert_modules\": %s}\n", layers,
      word(config.shared_experts), word(config.non_expert_modules));
}

}  // namespace conclave::worker
