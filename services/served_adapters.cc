#include "services/served_adapters.h"

#include <variant>

namespace conclave::services {
namespace {

using router::AdapterNames;
using router::AdapterView;

absl::Status ToStatus(const AdapterNames::Refusal& refusal) {
  switch (refusal.why) {
    case AdapterNames::Refusal::Why::kInvalid:
      return absl::InvalidArgumentError(refusal.message);
    case AdapterNames::Refusal::Why::kUnknown:
      return absl::NotFoundError(refusal.message);
    case AdapterNames::Refusal::Why::kNotNow:
      return absl::UnavailableError(refusal.message);
  }
  return absl::InternalError("unknown refusal");
}

}  // namespace

absl::Status ServedAdapters::Choose(router::Request& request, const std::string& base,
                                    std::optional<AdapterNames::Version> known) const {
  const auto choice = names_.Choose({.tenant = request.tenant,
                                     .model = request.model,
                                     .adapter = request.adapter,
                                     .base = base,
                                     .goes_on = request.resume_from > 0,
                                     .known = std::move(known)});
  if (const auto* const refusal = std::get_if<AdapterNames::Refusal>(&choice))
    return ToStatus(*refusal);
  request.version = std::get<AdapterNames::Version>(choice);
  return absl::OkStatus();
}

void ServedAdapters::AddModels(const v1::Model& base, std::vector<v1::Model>& models) const {
  for (const AdapterView& adapter : names_.adapters()) {
    if (adapter.state != AdapterView::State::kActive) continue;
    v1::Model model = base;
    model.set_name(base.name() + ":" + adapter.name);
    model.set_parent(base.name());
    model.set_version(adapter.digest);
    models.push_back(std::move(model));
  }
}

}  // namespace conclave::services
