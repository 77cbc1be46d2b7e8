#pragma once
// Ends a stream of text at the first stop string, however the text is cut into pieces. Text that
// may be the beginning of a stop string is held back until that is decided, so a client never sees
// a part of one. Knuth-Morris-Pratt for each stop string: linear in the text. One per sequence; one
// thread at a time.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::router {

class StopStrings {
 public:
  struct Options {
    bool include_in_output = false;  // the stop string itself is given out, too
    size_t stops_max = 16;
    size_t stop_bytes_max = 1024;  // of one stop string
  };

  // nullopt and *error: too many or too long, empty, or not UTF-8.
  static std::optional<StopStrings> Create(std::vector<std::string> stops, const Options& options,
                                           std::string* error);

  // Takes the next piece (whole characters) and returns the text that may go out. The match that
  // ends first stops the stream, among those that end together the longest; what follows it is
  // dropped. Without may_stop a match that ends in this piece is text like any other.
  std::string Push(std::string_view text, bool may_stop = true);

  // At the end of the sequence: what was held back. Empty once stopped.
  std::string Flush();

  // The stop string that ended the stream.
  const std::optional<std::string>& stopped_by() const { return stopped_by_; }

 private:
  struct Stop {
    std::string text;
    std::vector<uint32_t> border;  // [length + 1]: longest proper border of each prefix
    uint32_t matched = 0;          // bytes of text that what came so far ends with
  };

  StopStrings() = default;
  static void Advance(Stop& stop, char byte);

  bool include_in_output_ = false;
  std::vector<Stop> stops_;
  std::string held_;
  std::optional<std::string> stopped_by_;
};

}  // namespace conclave::router
