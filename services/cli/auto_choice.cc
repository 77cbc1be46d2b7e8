#include "services/cli/auto_choice.h"

#include "absl/strings/str_format.h"

namespace conclave::services::cli {

Json ChoiceOf(const v1::AutoChoice& choice) {
  return {{"best", choice.best().empty() ? Json(nullptr) : Json(choice.best())},
          {"share", choice.share()},
          {"margin", choice.margin()},
          {"least_margin", choice.least_margin()},
          {"tokens", choice.tokens()},
          {"probe_ms", static_cast<double>(choice.probe_us()) / 1e3}};
}

std::string Remark(const v1::AutoChoice& choice, const std::string& adapter) {
  if (choice.best().empty()) return "the base model answers: there is no adapter to choose";
  const std::string found = absl::StrFormat("%.1f %% of the gate's weight, %.1f ahead",
                                            100 * choice.share(), 100 * choice.margin());
  if (!adapter.empty()) return absl::StrFormat("%s answers: %s", adapter, found);
  return absl::StrFormat("the base model answers: the best is %s with %s, and %.1f are needed",
                         choice.best(), found, 100 * choice.least_margin());
}

}  // namespace conclave::services::cli
