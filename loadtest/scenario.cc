#include "loadtest/scenario.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "loadtest/arrivals.h"
#include "loadtest/file.h"
#include "loadtest/text.h"
#include "worker/status.h"

namespace conclave::loadtest {
namespace {

using Json = nlohmann::json;
using Values = std::map<std::string, std::string>;
// What to do with each key that an object may have.
using Takers = std::map<std::string, std::function<absl::Status(const Json&)>>;

absl::Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

absl::Status In(const std::string& field, const absl::Status& status) {
  if (status.ok()) return status;
  const std::string rest(status.message());
  // "phases" and "[2]: rate: want ..." make "phases[2]: rate: want ...".
  return Bad(field + (rest.starts_with('[') ? "" : ": ") + rest);
}

absl::Status TakeObject(const Json& json, const Takers& takers,
                        const std::vector<std::string>& required) {
  if (!json.is_object()) return Bad("want an object");
  for (const auto& [key, value] : json.items()) {
    const auto taker = takers.find(key);
    if (taker == takers.end()) return Bad(absl::StrFormat("unknown key \"%s\"", Excerpt(key)));
    CONCLAVE_RETURN_IF_ERROR(In(key, taker->second(value)));
  }
  for (const std::string& key : required) {
    if (!json.contains(key)) return Bad(absl::StrFormat("\"%s\" is missing", key));
  }
  return absl::OkStatus();
}

absl::Status TakeEach(const Json& json, size_t limit,
                      const std::function<absl::Status(const Json&)>& take) {
  if (!json.is_array()) return Bad("want an array");
  if (json.size() > limit) return Bad(absl::StrFormat("more than %d entries", limit));
  for (size_t i = 0; i < json.size(); ++i) {
    CONCLAVE_RETURN_IF_ERROR(In(absl::StrFormat("[%d]", i), take(json[i])));
  }
  return absl::OkStatus();
}

absl::Status TakeNumber(const Json& json, double least, double most, double* target) {
  const double value = json.is_number() ? json.get<double>() : std::nan("");
  if (!(value >= least && value <= most)) {
    return Bad(absl::StrFormat("want a number in [%g, %g]", least, most));
  }
  *target = value;
  return absl::OkStatus();
}

absl::Status TakeRate(const Json& json, double most, Phase* phase) {
  if (!json.is_array()) {
    CONCLAVE_RETURN_IF_ERROR(TakeNumber(json, 0, most, &phase->rate_from));
    phase->rate_to = phase->rate_from;
    return absl::OkStatus();
  }
  if (json.size() != 2) return Bad("want a number or [FROM, TO]");
  CONCLAVE_RETURN_IF_ERROR(In("[0]", TakeNumber(json[0], 0, most, &phase->rate_from)));
  return In("[1]", TakeNumber(json[1], 0, most, &phase->rate_to));
}

absl::Status TakeMix(const Json& json, std::optional<AdapterMix>* target) {
  absl::StatusOr<AdapterMix> mix = Bad("want a text or an object of names and weights");
  if (json.is_string()) {
    mix = AdapterMix::Parse(json.get<std::string>());
  } else if (json.is_object()) {
    AdapterMix::Weights weights;
    for (const auto& [name, weight] : json.items()) {
      double value = 0;
      CONCLAVE_RETURN_IF_ERROR(
          In(Excerpt(name), TakeNumber(weight, 0, AdapterMix::kMaxWeight, &value)));
      weights.emplace_back(name, value);
    }
    mix = AdapterMix::Make(weights);
  }
  if (!mix.ok()) return mix.status();
  *target = *std::move(mix);
  return absl::OkStatus();
}

absl::Status TakeLengths(const Json& json, std::optional<Lengths>* target) {
  if (!json.is_string() && !json.is_number_unsigned()) return Bad("want a text or a whole number");
  absl::StatusOr<Lengths> lengths =
      Lengths::Parse(json.is_string() ? json.get<std::string>() : json.dump());
  if (!lengths.ok()) return lengths.status();
  *target = *std::move(lengths);
  return absl::OkStatus();
}

absl::Status TakeName(const Json& json, size_t most, std::string* target) {
  if (!json.is_string()) return Bad("want a text");
  *target = json.get<std::string>();
  const bool printable = std::all_of(target->begin(), target->end(), [](char c) {
    return static_cast<unsigned char>(c) >= ' ' && c != 0x7F;
  });
  if (!target->empty() && target->size() <= most && printable) return absl::OkStatus();
  return Bad(absl::StrFormat("want 1 to %d bytes without control characters", most));
}

// `word` with every {NAME} replaced; other braces are braces.
absl::StatusOr<std::string> Fill(const std::string& word, const Values& values) {
  constexpr char kNameLetters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
  std::string filled;
  for (size_t at = 0; at < word.size();) {
    const size_t end = word[at] == '{' ? word.find_first_not_of(kNameLetters, at + 1) : word.npos;
    if (end == word.npos || word[end] != '}' || end == at + 1) {
      filled += word[at++];
      continue;
    }
    const std::string name = word.substr(at + 1, end - at - 1);
    const auto value = values.find(name);
    if (value == values.end()) {
      return Bad(absl::StrFormat("{%s} has no value: give --set %s=...", name, name));
    }
    filled += value->second;
    at = end + 1;
  }
  return filled;
}

class Reader {
 public:
  Reader(const Values& values, const ScenarioLimits& limits) : values_(values), limits_(limits) {}

  absl::StatusOr<Scenario> Read(const Json& json) {
    const Takers takers = {
        {"cv",
         [&](const Json& j) {
           return TakeNumber(j, 0, RenewalArrivals::kMaxVariation, &scenario_.variation);
         }},
        {"phases",
         [&](const Json& j) {
           return TakeEach(j, limits_.phases, [&](const Json& each) { return TakePhase(each); });
         }},
        {"actions",
         [&](const Json& j) {
           return TakeEach(j, limits_.actions, [&](const Json& each) { return TakeAction(each); });
         }},
    };
    CONCLAVE_RETURN_IF_ERROR(TakeObject(json, takers, {"phases"}));
    CONCLAVE_RETURN_IF_ERROR(CheckTimes());
    return std::move(scenario_);
  }

 private:
  absl::Status TakePhase(const Json& json) {
    Phase phase;
    const Takers takers = {
        {"name", [&](const Json& j) { return TakeName(j, limits_.name_bytes, &phase.name); }},
        {"seconds",
         [&](const Json& j) { return TakeNumber(j, 1e-3, limits_.seconds, &phase.seconds); }},
        {"rate", [&](const Json& j) { return TakeRate(j, limits_.rate, &phase); }},
        {"mix", [&](const Json& j) { return TakeMix(j, &phase.adapters); }},
        {"prompt_lengths", [&](const Json& j) { return TakeLengths(j, &phase.prompt_lengths); }},
        {"output_lengths", [&](const Json& j) { return TakeLengths(j, &phase.output_lengths); }},
    };
    CONCLAVE_RETURN_IF_ERROR(TakeObject(json, takers, {"name", "seconds", "rate"}));
    scenario_.phases.push_back(std::move(phase));
    return absl::OkStatus();
  }

  absl::Status TakeAction(const Json& json) {
    Action action;
    const Takers takers = {
        {"name", [&](const Json& j) { return TakeName(j, limits_.name_bytes, &action.name); }},
        {"at", [&](const Json& j) { return TakeNumber(j, 0, limits_.seconds, &action.at); }},
        {"timeout",
         [&](const Json& j) { return TakeNumber(j, 0.1, Action::kMaxTimeout, &action.timeout); }},
        {"command",
         [&](const Json& j) {
           return TakeEach(j, limits_.command_words,
                           [&](const Json& word) { return TakeWord(word, &action); });
         }},
    };
    CONCLAVE_RETURN_IF_ERROR(TakeObject(json, takers, {"name", "at", "command"}));
    if (action.command.empty()) return Bad("command: want a program and its arguments");
    CONCLAVE_RETURN_IF_ERROR(In("command", FindProgram(action)));
    scenario_.actions.push_back(std::move(action));
    return absl::OkStatus();
  }

  absl::Status TakeWord(const Json& json, Action* action) const {
    if (!json.is_string()) return Bad("want a text");
    const auto text = json.get<std::string>();
    if (text.find('\0') != text.npos) return Bad("has a zero byte");
    CONCLAVE_ASSIGN_OR_RETURN(std::string word, Fill(text, values_));
    action->command.push_back(std::move(word));
    return absl::OkStatus();
  }

  absl::Status CheckTimes() const {
    double end = 0;
    for (const Phase& phase : scenario_.phases) end += phase.seconds;
    if (scenario_.phases.empty()) return Bad("phases: there is none");
    if (end > limits_.seconds) {
      return Bad(absl::StrFormat("phases: %g s together, the limit is %g s", end, limits_.seconds));
    }
    for (const Action& action : scenario_.actions) {
      if (action.at >= end) {
        return Bad(absl::StrFormat("actions: \"%s\" is at %g s, but the phases end at %g s",
                                   action.name, action.at, end));
      }
    }
    return absl::OkStatus();
  }

  const Values& values_;
  const ScenarioLimits& limits_;
  Scenario scenario_;
};

// Where the text stops being JSON, counted from 1.
size_t BadLine(const std::string& text) {
  try {
    [[maybe_unused]] const Json json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    const size_t end = std::min(text.size(), error.byte > 0 ? error.byte - 1 : 0);
    return 1 + static_cast<size_t>(
                   std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
  } catch (const Json::exception&) {
    return 1;  // a number that no type holds
  }
  return 1;
}

}  // namespace

absl::StatusOr<Scenario> ReadScenario(const std::string& path, const Values& values,
                                      const ScenarioLimits& limits) {
  CONCLAVE_ASSIGN_OR_RETURN(const std::string text, ReadWhole(path, limits.file_bytes));
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Bad(absl::StrFormat("%s:%d: not JSON", path, BadLine(text)));
  absl::StatusOr<Scenario> scenario = Reader(values, limits).Read(json);
  if (scenario.ok()) return scenario;
  return absl::Status(scenario.status().code(),
                      absl::StrFormat("%s: %s", path, scenario.status().message()));
}

}  // namespace conclave::loadtest
