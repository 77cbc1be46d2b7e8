#pragma once
// What a command works on: text given in the command line or in a file, or token ids.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "conclave/v1/inference.pb.h"
#include "services/flags.h"

namespace conclave::services::cli {

class Input {
 public:
  static constexpr size_t kMaxFileBytes = size_t{64} << 20;
  static constexpr size_t kMaxTokenIds = size_t{16} << 20;

  // --TEXT, --FILE and --token-ids; with an empty name the flag is left out.
  void AddFlags(Flags& flags, const std::string& text_flag, const std::string& file_flag);

  // How many of the flags were given.
  int given(const Flags& flags) const;
  // INVALID_ARGUMENT unless exactly one was given; NOT_FOUND (the file).
  absl::StatusOr<v1::Prompt> Read(const Flags& flags) const;

 private:
  std::string text_flag_;
  std::string file_flag_;
  std::string text_;
  std::string file_;
  std::string token_ids_;
  bool parse_special_ = false;
  bool no_added_tokens_ = false;
};

// The file's bytes, or those of stdin for "-".
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit = Input::kMaxFileBytes);

// "1,2,3", with or without spaces.
absl::StatusOr<std::vector<uint32_t>> ParseTokenIds(const std::string& text);

}  // namespace conclave::services::cli
