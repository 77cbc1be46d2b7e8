#include "services/flags.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "scheduler/check.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxArguments = 4096;

template <typename T>
concept Number = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

// What a number may be: the flag's bounds as far as the type can hold them.
template <Number T>
std::string RangeOf(const Flag& flag) {
  using Limits = std::numeric_limits<T>;
  const bool from_least = flag.min <= static_cast<double>(Limits::lowest());
  const bool to_greatest = flag.max >= static_cast<double>(Limits::max());
  if constexpr (std::is_floating_point_v<T>) {
    if (from_least && to_greatest) return "want a finite number";
    return absl::StrFormat("out of range [%g, %g]", flag.min, flag.max);
  } else {
    return absl::StrFormat("out of range [%d, %d]",
                           from_least ? Limits::lowest() : static_cast<T>(flag.min),
                           to_greatest ? Limits::max() : static_cast<T>(flag.max));
  }
}

// Whether the text is a number of any kind or size, and which one.
bool IsNumber(const std::string& text, double* value) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *value);
  if (error == std::errc::result_out_of_range) *value = HUGE_VAL;
  return stop == end && error != std::errc::invalid_argument;
}

// Says what is wrong with a text that is no value of the flag.
template <Number T>
absl::Status BadNumber(const Flag& flag, const std::string& text) {
  double value = 0;
  std::string wrong = RangeOf<T>(flag);
  if (!IsNumber(text, &value)) {
    wrong = "not a number";
  } else if (std::is_integral_v<T> && text.find_first_not_of("-0123456789") != text.npos) {
    wrong = "not a whole number";
  }
  return absl::InvalidArgumentError(absl::StrFormat("--%s: \"%s\": %s", flag.name, text, wrong));
}

template <Number T>
absl::Status ParseValue(const Flag& flag, const std::string& text, T* target) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  const auto real = static_cast<double>(value);
  if (error != std::errc() || stop != end || !std::isfinite(real) || real < flag.min ||
      real > flag.max) {
    return BadNumber<T>(flag, text);
  }
  *target = value;
  return absl::OkStatus();
}

absl::Status ParseValue(const Flag& flag, const std::string& text, bool* target) {
  if (text != "true" && text != "false") {
    return absl::InvalidArgumentError(
        absl::StrFormat("--%s: want true or false, not \"%s\"", flag.name, text));
  }
  *target = text == "true";
  return absl::OkStatus();
}

absl::Status ParseValue(const Flag&, const std::string& text, std::string* target) {
  *target = text;
  return absl::OkStatus();
}

absl::Status ParseValue(const Flag&, const std::string& text, std::vector<std::string>* target) {
  target->push_back(text);
  return absl::OkStatus();
}

absl::Status WrongKind(const Flag& flag, const std::string& wanted) {
  return absl::InvalidArgumentError(absl::StrFormat("key \"%s\": want %s", flag.name, wanted));
}

// Numbers pass through their text, so file and command line have one set of rules.
template <Number T>
absl::Status ParseJson(const Flag& flag, const Json& json, T* target) {
  if (!json.is_number()) return WrongKind(flag, "a number");
  return ParseValue(flag, json.dump(), target);
}

absl::Status ParseJson(const Flag& flag, const Json& json, bool* target) {
  if (!json.is_boolean()) return WrongKind(flag, "true or false");
  *target = json.get<bool>();
  return absl::OkStatus();
}

absl::Status ParseJson(const Flag& flag, const Json& json, std::string* target) {
  if (!json.is_string()) return WrongKind(flag, "a string");
  *target = json.get<std::string>();
  return absl::OkStatus();
}

absl::Status ParseJson(const Flag& flag, const Json& json, std::vector<std::string>* target) {
  if (!json.is_array()) return WrongKind(flag, "an array of strings");
  target->clear();
  for (const Json& item : json) {
    if (!item.is_string()) return WrongKind(flag, "an array of strings");
    target->push_back(item.get<std::string>());
  }
  return absl::OkStatus();
}

std::string Default(const Flag& flag) {
  return std::visit(
      [](const auto* target) -> std::string {
        using T = std::remove_cvref_t<decltype(*target)>;
        if constexpr (std::is_same_v<T, std::string>) {
          return *target;
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          return absl::StrJoin(*target, ",");
        } else if constexpr (std::is_same_v<T, bool>) {
          return *target ? "true" : "false";
        } else {
          return absl::StrCat(*target);
        }
      },
      flag.target);
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrFormat("--config: cannot open \"%s\"", path));
  std::string text(kMaxConfigBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--config: \"%s\" is larger than %d bytes", path, kMaxConfigBytes));
  }
  return text;
}

}  // namespace

Flags::Flags(std::string program, std::string summary)
    : program_(std::move(program)), summary_(std::move(summary)) {}

void Flags::Add(Flag flag) {
  CONCLAVE_CHECK(flag.name != "config" && flag.name != "help" && flag.name != "version");
  const std::string name = flag.name;
  CONCLAVE_CHECK(flags_.emplace(name, std::move(flag)).second);
}

void Flags::AddOptional(Flag flag) {
  CONCLAVE_CHECK(optional_.insert(flag.name).second);
  Add(std::move(flag));
}

void Flags::AddPositional(std::vector<std::string>* target, size_t limit, std::string name) {
  positional_ = target;
  positional_limit_ = limit;
  positional_name_ = std::move(name);
}

absl::Status Flags::Parse(const std::vector<std::string>& arguments) {
  if (arguments.size() > kMaxArguments) return absl::InvalidArgumentError("too many arguments");
  std::vector<Setting> settings;
  CONCLAVE_RETURN_IF_ERROR(Split(arguments, settings));
  for (const Setting& setting : settings) {
    if (setting.name == "config") CONCLAVE_RETURN_IF_ERROR(ParseFile(setting.value));
  }
  const std::set<std::string> from_file = std::exchange(given_, {});
  for (const Setting& setting : settings) {
    if (setting.name != "config") CONCLAVE_RETURN_IF_ERROR(Apply(setting));
  }
  given_.insert(from_file.begin(), from_file.end());
  return absl::OkStatus();
}

absl::Status Flags::ParseFile(const std::string& path) {
  CONCLAVE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const Json root = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object())
    return absl::InvalidArgumentError(absl::StrFormat("%s: not a JSON object", path));
  for (const auto& [key, value] : root.items()) {
    const auto found = flags_.find(key);
    if (found == flags_.end()) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: unknown key \"%s\"", path, key));
    }
    const Flag& flag = found->second;
    const absl::Status status =
        std::visit([&](auto* target) { return ParseJson(flag, value, target); }, flag.target);
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: %s", path, status.message()));
    }
    given_.insert(key);
  }
  return absl::OkStatus();
}

absl::Status Flags::Split(const std::vector<std::string>& arguments,
                          std::vector<Setting>& settings) {
  bool only_positional = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (!only_positional && argument == "--") {
      only_positional = true;
    } else if (!only_positional && argument == "--help") {
      request_ = Request::kHelp;
    } else if (!only_positional && argument == "--version") {
      request_ = Request::kVersion;
    } else if (!only_positional && argument.rfind("--", 0) == 0) {
      CONCLAVE_RETURN_IF_ERROR(SplitOne(arguments, i, settings));
    } else if (positional_ == nullptr || positional_->size() == positional_limit_) {
      return absl::InvalidArgumentError(absl::StrFormat("unexpected argument \"%s\"", argument));
    } else {
      positional_->push_back(argument);
    }
  }
  return absl::OkStatus();
}

absl::Status Flags::SplitOne(const std::vector<std::string>& arguments, size_t& at,
                             std::vector<Setting>& settings) {
  const std::string body = arguments[at].substr(2);
  const size_t equals = body.find('=');
  const std::string name = body.substr(0, equals);
  const auto found = flags_.find(name);
  if (found == flags_.end() && name != "config") {
    return absl::InvalidArgumentError(
        absl::StrFormat("unknown flag --%s (--help lists them)", name));
  }
  if (equals != std::string::npos) {
    settings.push_back({name, body.substr(equals + 1)});
  } else if (name != "config" && std::holds_alternative<bool*>(found->second.target)) {
    settings.push_back({name, "true"});
  } else if (++at < arguments.size()) {
    settings.push_back({name, arguments[at]});
  } else {
    return absl::InvalidArgumentError(absl::StrFormat("--%s: no value", name));
  }
  return absl::OkStatus();
}

absl::Status Flags::Apply(const Setting& setting) {
  const Flag& flag = flags_.at(setting.name);
  const bool first = given_.insert(setting.name).second;
  // The first repetition on the command line replaces the list of the file or the default.
  if (auto* const list = std::get_if<std::vector<std::string>*>(&flag.target); list && first)
    (*list)->clear();
  return std::visit([&](auto* target) { return ParseValue(flag, setting.value, target); },
                    flag.target);
}

std::optional<int> Flags::ParseOrExit(int argc, char** argv) {
  const std::string help = Help();  // before Parse, for it shows the defaults
  const absl::Status status = Parse({argv + 1, argv + argc});
  if (!status.ok()) {
    std::fprintf(stderr, "%s: %s\n", program_.c_str(), std::string(status.message()).c_str());
    return 2;
  }
  if (request_ == Request::kRun) return std::nullopt;
  std::fputs(
      request_ == Request::kHelp ? help.c_str() : (program_ + " " + Version() + "\n").c_str(),
      stdout);
  return 0;
}

std::string Flags::Help() const {
  const std::string positional = positional_ ? " " + positional_name_ : "";
  std::string text =
      absl::StrFormat("%s\n\nusage: %s [flags]%s\n\n", summary_, program_, positional);
  for (const auto& [name, flag] : flags_) {
    const std::string value = flag.unit.empty() ? "" : " " + flag.unit;
    const std::string fallback = optional_.count(name) > 0 ? "" : Default(flag);
    absl::StrAppendFormat(&text, "  --%s%s\n      %s%s\n", name, value, flag.help,
                          fallback.empty() ? "" : " (default " + fallback + ")");
  }
  return text +
         "  --config FILE\n      a JSON object with any of these; the command line wins\n  "
         "--help\n  --version\n";
}

std::string Version() { return CONCLAVE_VERSION; }

}  // namespace conclave::services
