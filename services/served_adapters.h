#pragma once
// The adapters that a router's clients may name: as router::AdapterNames decides, in the words of
// the protocol. One thread at a time.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "conclave/v1/inference.pb.h"
#include "router/adapter_names.h"
#include "router/auto_adapter.h"
#include "router/request.h"

namespace conclave::services {

class ServedAdapters {
 public:
  explicit ServedAdapters(router::AdapterNames names) : names_(std::move(names)) {}

  // All there are, from now on.
  void Set(const std::vector<router::AdapterView>& adapters) { names_.SetAdapters(adapters); }
  bool empty() const { return names_.empty(); }

  // What a live request began with that is asked for once more.
  struct Begun {
    router::AdapterNames::Version version;
    std::optional<router::AutoRecord> choice;
  };

  // Decides the request's version, of a model that is called `base`, or that it is open. NOT_FOUND,
  // INVALID_ARGUMENT, or UNAVAILABLE for an adapter that comes or goes.
  absl::Status Choose(router::Request& request, const std::string& base,
                      std::optional<Begun> known) const;

  // Whether an open version can be any but the base model's.
  bool any_active() const { return !names_.active().empty(); }
  struct Choice {
    router::AdapterNames::Version version;
    router::AutoRecord record;  // of how the version came about
  };
  // Of what is active now: the best one, or the base model if its margin is below `least_margin`.
  Choice ChooseBy(const router::GateShares& gate, double least_margin) const;

  // A model for each adapter that takes new requests, called as `model` may name it.
  void AddModels(const v1::Model& base, std::vector<v1::Model>& models) const;

 private:
  router::AdapterNames names_;
};

}  // namespace conclave::services
