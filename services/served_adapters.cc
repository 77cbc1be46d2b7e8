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
                                    std::optional<Begun> known) const {
  std::optional<AdapterNames::Version> version;
  if (known) version = known->version;
  const AdapterNames::Answer answer =
      names_.Choose({.tenant = request.tenant,
                     .model = request.model,
                     .adapter = request.adapter,
                     .base = base,
                     .goes_on = request.resume_from > 0,
                     .known = std::move(version),
                     .known_open = known && known->choice.has_value()});
  if (const auto* const refusal = std::get_if<AdapterNames::Refusal>(&answer))
    return ToStatus(*refusal);
  request.open = std::holds_alternative<AdapterNames::Open>(answer);
  if (request.open) return absl::OkStatus();
  request.version = std::get<AdapterNames::Version>(answer);
  if (known && known->version == request.version) request.choice = std::move(known->choice);
  return absl::OkStatus();
}

ServedAdapters::Choice ServedAdapters::ChooseBy(const router::GateShares& gate,
                                                double least_margin) const {
  const std::vector<AdapterNames::Active> active = names_.active();
  std::vector<router::AdapterSignature> signatures;
  signatures.reserve(active.size());
  for (const AdapterNames::Active& adapter : active) signatures.push_back(adapter.replaced);
  const router::AutoChoice choice = router::ChooseAdapter(gate, signatures);
  Choice chosen{.version = {}, .record = {.least_margin = least_margin}};
  if (!choice.best) return chosen;
  const AdapterNames::Version& best = active[*choice.best].version;
  chosen.record.best = best.ToString();
  chosen.record.share = choice.share;
  chosen.record.margin = choice.margin;
  if (choice.margin >= least_margin) chosen.version = best;
  return chosen;
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
