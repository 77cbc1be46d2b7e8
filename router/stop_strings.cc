#include "router/stop_strings.h"

#include <algorithm>
#include <utility>

#include "router/utf8.h"

namespace conclave::router {
namespace {

std::vector<uint32_t> Borders(std::string_view text) {
  std::vector<uint32_t> border(text.size() + 1, 0);
  uint32_t length = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = border[length];
    if (text[i] == text[length]) ++length;
    border[i + 1] = length;
  }
  return border;
}

}  // namespace

std::optional<StopStrings> StopStrings::Create(std::vector<std::string> stops,
                                               const Options& options, std::string* error) {
  if (stops.size() > options.stops_max) {
    *error = std::to_string(stops.size()) + " stop strings, the limit is " +
             std::to_string(options.stops_max);
    return std::nullopt;
  }
  StopStrings result;
  result.include_in_output_ = options.include_in_output;
  for (std::string& stop : stops) {
    if (stop.empty()) {
      *error = "a stop string is empty";
      return std::nullopt;
    }
    if (stop.size() > options.stop_bytes_max) {
      *error = "a stop string has " + std::to_string(stop.size()) + " bytes, the limit is " +
               std::to_string(options.stop_bytes_max);
      return std::nullopt;
    }
    if (!IsUtf8(stop)) {
      *error = "a stop string is not UTF-8";
      return std::nullopt;
    }
    std::vector<uint32_t> border = Borders(stop);
    result.stops_.push_back({std::move(stop), std::move(border)});
  }
  return result;
}

void StopStrings::Advance(Stop& stop, char byte) {
  while (stop.matched > 0 && stop.text[stop.matched] != byte) {
    stop.matched = stop.border[stop.matched];
  }
  if (stop.text[stop.matched] == byte) ++stop.matched;
}

std::string StopStrings::Push(std::string_view text, bool may_stop) {
  if (stopped_by_) return {};
  std::string out = std::exchange(held_, {});
  uint32_t held_bytes = 0;
  for (char byte : text) {
    out += byte;
    held_bytes = 0;
    const Stop* found = nullptr;
    for (Stop& stop : stops_) {
      Advance(stop, byte);
      if (stop.matched == stop.text.size()) {
        const bool longer = found == nullptr || stop.text.size() > found->text.size();
        if (may_stop && longer) found = &stop;
        stop.matched = stop.border.back();
      }
      held_bytes = std::max(held_bytes, stop.matched);
    }
    if (found != nullptr) {
      stopped_by_ = found->text;
      if (!include_in_output_) out.resize(out.size() - found->text.size());
      return out;
    }
  }
  if (text.empty()) held_bytes = static_cast<uint32_t>(out.size());
  held_ = out.substr(out.size() - held_bytes);
  out.resize(out.size() - held_bytes);
  return out;
}

std::string StopStrings::Flush() { return std::exchange(held_, {}); }

}  // namespace conclave::router
