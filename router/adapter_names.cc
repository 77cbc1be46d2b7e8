#include "router/adapter_names.h"

#include <algorithm>
#include <utility>

namespace conclave::router {
namespace {

using Why = AdapterNames::Refusal::Why;
using State = AdapterView::State;

constexpr size_t kDigestShown = 16;

std::string Quoted(const std::string& text) { return "'" + text + "'"; }

bool IsOurWord(const std::string& name) {
  return name == AdapterNames::kAuto || name == AdapterNames::kBase;
}

// "a, b and 3 more".
std::string List(const std::vector<std::string>& names, size_t most) {
  std::string list;
  for (size_t i = 0; i < std::min(names.size(), most); ++i) list += (i > 0 ? ", " : "") + names[i];
  if (names.size() > most) list += " and " + std::to_string(names.size() - most) + " more";
  return list;
}

}  // namespace

std::optional<AdapterNames> AdapterNames::Create(const Options& options, std::string* error) {
  AdapterNames names;
  names.options_ = options;
  auto problem = names.Read(options.aliases, options.aliases_max, names.aliases_);
  if (!problem) problem = names.Read(options.defaults, options.defaults_max, names.defaults_);
  for (const auto& [name, target] : names.aliases_) {
    if (name.find_first_of("@:") != name.npos)
      problem = Quoted(name) + ": an alias has no '@' and no ':'";
    if (IsOurWord(name)) problem = Quoted(name) + " means something else, it is no alias";
  }
  if (!problem) return names;
  *error = *problem;
  return std::nullopt;
}

std::optional<std::string> AdapterNames::Read(const std::vector<std::string>& lines, size_t most,
                                              Settings& settings) const {
  if (lines.size() > most) {
    return std::to_string(lines.size()) + " settings of this kind, the limit is " +
           std::to_string(most);
  }
  for (const std::string& line : lines) {
    const size_t equals = line.find('=');
    const std::string name = line.substr(0, equals);
    const std::string target = equals == line.npos ? "" : line.substr(equals + 1);
    if (name.empty() || target.empty() || target.find('=') != target.npos)
      return Quoted(line) + ": want NAME=ADAPTER";
    if (std::max(name.size(), target.size()) > options_.name_bytes_max) {
      return Quoted(line.substr(0, 32)) + "...: a name has more than " +
             std::to_string(options_.name_bytes_max) + " bytes";
    }
    if (!settings.emplace(name, target).second)
      return Quoted(line) + ": there is one of that name already";
  }
  return std::nullopt;
}

void AdapterNames::SetAdapters(const std::vector<AdapterView>& adapters) {
  versions_.clear();
  for (const AdapterView& adapter : adapters)
    versions_[adapter.name].push_back(
        {adapter.digest, adapter.parent, adapter.state, adapter.replaced});
}

std::vector<AdapterView> AdapterNames::adapters() const {
  std::vector<AdapterView> adapters;
  for (const auto& [name, versions] : versions_) {
    for (const Known& version : versions)
      adapters.push_back({name, version.digest, version.parent, version.state});
  }
  return adapters;
}

std::vector<AdapterNames::Active> AdapterNames::active() const {
  std::vector<Active> active;
  for (const auto& [name, versions] : versions_) {
    for (const Known& version : versions) {
      if (version.state == State::kActive && !version.replaced.empty())
        active.push_back({{name, version.digest}, version.replaced});
    }
  }
  return active;
}

AdapterNames::Answer AdapterNames::Choose(const Asked& asked) const {
  const auto of_model = NamedByModel(asked);
  if (const auto* const refusal = std::get_if<Refusal>(&of_model)) return *refusal;
  const std::string& model = std::get<std::string>(of_model);
  if (model.empty() && asked.adapter.empty()) {
    const auto fallback = defaults_.find(asked.tenant);
    const bool open = asked.model.empty() && fallback != defaults_.end();
    return open ? Resolve(fallback->second, asked) : Answer(Version());
  }
  if (model.empty()) return Resolve(asked.adapter, asked);
  if (asked.adapter.empty()) return Resolve(model, asked);
  return ResolveBoth(model, asked);
}

AdapterNames::Answer AdapterNames::ResolveBoth(const std::string& model, const Asked& asked) const {
  const auto [name_of_model, digest_of_model] = Split(model);
  const auto [name, digest] = Split(asked.adapter);
  // What is open is open to what the other one says.
  if (name_of_model == kAuto && !digest_of_model) return Resolve(asked.adapter, asked);
  if (name == kAuto && !digest) return Resolve(model, asked);
  // Of one adapter the one counts that says which version.
  if (name == name_of_model && !digest_of_model) return Resolve(asked.adapter, asked);
  if (name == name_of_model && !digest) return Resolve(model, asked);
  Answer first = Resolve(model, asked);
  Answer second = Resolve(asked.adapter, asked);
  if (std::holds_alternative<Refusal>(first)) return first;
  // Neither is open, as that is above.
  if (std::holds_alternative<Refusal>(second) ||
      std::get<Version>(first) == std::get<Version>(second)) {
    return second;
  }
  return Refusal{Why::kInvalid, "model " + Quoted(asked.model) + " and adapter " +
                                    Quoted(asked.adapter) +
                                    " name different adapters; name one of them"};
}

std::variant<std::string, AdapterNames::Refusal> AdapterNames::NamedByModel(
    const Asked& asked) const {
  if (asked.model.empty() || asked.model == asked.base) return std::string();
  if (asked.model.rfind(asked.base + ":", 0) == 0) {
    std::string adapter = asked.model.substr(asked.base.size() + 1);
    if (!adapter.empty()) return adapter;
    return Refusal{Why::kInvalid,
                   "model " + Quoted(asked.model) + " names no adapter behind its colon"};
  }
  if (aliases_.count(asked.model) > 0) return asked.model;
  return Refusal{Why::kUnknown, "model " + Quoted(asked.model) + " is not served here, " +
                                    Quoted(asked.base) + " is"};
}

std::pair<std::string, std::optional<std::string>> AdapterNames::Split(
    const std::string& text) const {
  const auto alias = aliases_.find(text);
  const std::string& named = alias == aliases_.end() ? text : alias->second;
  const size_t at = named.rfind('@');
  if (at == named.npos) return {named, std::nullopt};
  return {named.substr(0, at), named.substr(at + 1)};
}

AdapterNames::Answer AdapterNames::Resolve(const std::string& text, const Asked& asked) const {
  const auto [name, digest] = Split(text);
  if (name.empty() || (digest && digest->empty())) {
    return Refusal{Why::kInvalid, "adapter " + Quoted(text) + ": want NAME or NAME@DIGEST"};
  }
  if (IsOurWord(name)) {
    if (digest) return Refusal{Why::kInvalid, Quoted(name) + " has no versions"};
    return name == kBase ? Answer(Version()) : ResolveOpen(asked);
  }
  const std::string begin = digest.value_or("");
  const auto fits = [&](const std::string& other) { return other.rfind(begin, 0) == 0; };
  if (asked.known && asked.known->name == name && fits(asked.known->digest)) return *asked.known;
  const auto found = versions_.find(name);
  if (found == versions_.end()) return NotKnown(text, name);
  std::vector<const Known*> versions;
  std::vector<std::string> digests;
  for (const Known& version : found->second) {
    if (fits(version.digest)) versions.push_back(&version);
    digests.push_back(version.digest.substr(0, kDigestShown));
  }
  if (!digest) return ResolveVersion(name, versions, asked);
  if (versions.empty()) {
    return Refusal{Why::kUnknown, "adapter " + Quoted(name) + " has no version that begins with " +
                                      Quoted(*digest) + "; it has " +
                                      List(digests, options_.listed_max)};
  }
  if (versions.size() == 1) return ResolveVersion(name, versions, asked);
  return Refusal{Why::kInvalid, std::to_string(versions.size()) + " versions of adapter " +
                                    Quoted(name) + " begin with " + Quoted(*digest) +
                                    "; give more of the digest"};
}

// What there is to choose from may have changed since it began.
AdapterNames::Answer AdapterNames::ResolveOpen(const Asked& asked) const {
  if (asked.known && asked.known_open) return *asked.known;
  if (!asked.goes_on) return Open();
  return Refusal{Why::kInvalid,
                 "resume_from needs the adapter that the first message reported, or 'base' where "
                 "it reported none, instead of 'auto'"};
}

AdapterNames::Answer AdapterNames::ResolveVersion(const std::string& name,
                                                  const std::vector<const Known*>& versions,
                                                  const Asked& asked) const {
  if (asked.goes_on && versions.size() > 1) {
    return Refusal{Why::kInvalid, "adapter " + Quoted(name) +
                                      " has more than one version: resume_from needs the adapter "
                                      "that the first message reported"};
  }
  bool loading = false;
  for (const Known* const version : versions) {
    const bool takes =
        version->state == State::kActive || (version->state == State::kDraining && asked.goes_on);
    if (takes) return Version{name, version->digest};
    loading = loading || version->state == State::kLoading;
  }
  return Refusal{Why::kNotNow, "adapter " + Quoted(name) +
                                   (loading ? " is being loaded; try again soon"
                                            : " is being removed and takes no new requests")};
}

AdapterNames::Refusal AdapterNames::NotKnown(const std::string& text,
                                             const std::string& name) const {
  std::vector<std::string> active;
  for (const auto& [other, versions] : versions_) {
    const bool takes = std::any_of(versions.begin(), versions.end(), [](const Known& version) {
      return version.state == State::kActive;
    });
    if (takes) active.push_back(other);
  }
  const std::string which = text == name || text.rfind(name + "@", 0) == 0
                                ? "adapter " + Quoted(name)
                                : Quoted(text) + " stands for adapter " + Quoted(name) + ", which";
  return {Why::kUnknown, which + " is not known; " +
                             (active.empty() ? "there are none"
                                             : "there are " + List(active, options_.listed_max))};
}

}  // namespace conclave::router
