#pragma once
// Which adapter a request means, and which version of it: by the adapter field or a model of
// BASE:ADAPTER, by an operator's alias, by a tenant's default. A name is an adapter's, or
// NAME@DIGEST for the one version whose digest begins so; without one the version that takes new
// requests is meant. What is decided here goes with the request wherever it goes on. What is not
// known is refused; nothing but a request that names no adapter, or `base`, gets the base model.
// `auto` leaves it to the router, which chooses among active().
//
// Names and versions are as the cluster says (SetAdapters); aliases and defaults are settings, of
// adapters that need not be there yet. One thread at a time.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace conclave::router {

// One version of an adapter.
struct AdapterView {
  enum class State : uint8_t { kLoading, kActive, kDraining };

  std::string name;
  std::string digest;  // of the version
  std::string parent;  // the base model
  State state = State::kLoading;
  std::vector<uint32_t> replaced{};  // as PlacedAdapter's; empty: not known
  bool on_disk = false;              // no place in memory, or about to leave it: nobody begins
  bool placed = true;                // workers have it still, all of it
  std::string problem{};             // why it could not come back
};

class AdapterNames {
 public:
  struct Options {
    std::vector<std::string> aliases;   // NAME=ADAPTER or NAME=ADAPTER@DIGEST
    std::vector<std::string> defaults;  // TENANT=the same, or TENANT=an alias
    size_t aliases_max = 1024;
    size_t defaults_max = 1024;
    size_t name_bytes_max = 256;  // of what stands on either side
    size_t listed_max = 8;        // names or digests in a message
  };

  // nullopt and *error: a setting that is none, too many or too long, or a name given twice.
  static std::optional<AdapterNames> Create(const Options& options, std::string* error);
  // Without settings.
  AdapterNames() = default;

  // All there are, from now on.
  void SetAdapters(const std::vector<AdapterView>& adapters);
  // By name, then as they were set; without what they replace.
  std::vector<AdapterView> adapters() const;
  bool empty() const { return versions_.empty(); }

  struct Version {
    std::string name;    // empty: the base model
    std::string digest;  // empty: it has none
    bool operator==(const Version&) const = default;
    // NAME@DIGEST.
    std::string ToString() const { return digest.empty() ? name : name + "@" + digest; }
  };

  // Words that no adapter and no alias may have for a name.
  static constexpr char kAuto[] = "auto";
  static constexpr char kBase[] = "base";

  // The version is the router's to choose.
  struct Open {};

  struct Asked {
    std::string tenant;
    std::string model, adapter;      // as the client wrote them
    std::string base;                // what the model is called that is served
    bool goes_on = false;            // it began before: a version that drains may be meant
    std::optional<Version> known{};  // that it began with, if that is known
    bool known_open = false;         // and that it was the router's choice
  };

  struct Refusal {
    enum class Why : uint8_t { kInvalid, kUnknown, kNotNow };
    Why why = Why::kUnknown;
    std::string message;
  };

  using Answer = std::variant<Version, Open, Refusal>;
  Answer Choose(const Asked& asked) const;

  // What may be chosen where that is open, by name. Valid until the next SetAdapters.
  struct Active {
    Version version;
    std::span<const uint32_t> replaced;  // not empty
  };
  std::vector<Active> active() const;

 private:
  using Settings = std::map<std::string, std::string>;
  struct Known {
    std::string digest, parent;
    AdapterView::State state = AdapterView::State::kLoading;
    std::vector<uint32_t> replaced;
  };

  std::optional<std::string> Read(const std::vector<std::string>& lines, size_t most,
                                  Settings& settings) const;
  // What the model names beside the base model; empty: nothing.
  std::variant<std::string, Refusal> NamedByModel(const Asked& asked) const;
  // What it stands for: a name and, if there is one, the digest's beginning.
  std::pair<std::string, std::optional<std::string>> Split(const std::string& text) const;
  Answer ResolveBoth(const std::string& model, const Asked& asked) const;
  Answer Resolve(const std::string& text, const Asked& asked) const;
  Answer ResolveOpen(const Asked& asked) const;
  Answer ResolveVersion(const std::string& name, const std::vector<const Known*>& versions,
                        const Asked& asked) const;
  Refusal NotKnown(const std::string& text, const std::string& name) const;

  Options options_;
  Settings aliases_, defaults_;
  std::map<std::string, std::vector<Known>> versions_;
};

}  // namespace conclave::router
