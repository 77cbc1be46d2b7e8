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

  // Both of the following.
  void AddFlags(Flags& flags, const std::string& text_flag, const std::string& file_flag);
  // --TEXT and --FILE, and how a text is read.
  void AddTextFlags(Flags& flags, const std::string& text_flag, const std::string& file_flag);
  void AddTokenIdsFlag(Flags& flags);

  // In how many ways a prompt was given.
  int given(const Flags& flags) const;
  // INVALID_ARGUMENT unless it was exactly one; NOT_FOUND (the file).
  absl::StatusOr<v1::Prompt> Read(const Flags& flags) const;

 private:
  std::vector<std::string> names_;  // of the flags that give a prompt
  std::string file_flag_;
  std::string text_;
  std::string file_;
  std::string token_ids_;
  bool parse_special_ = false;
  bool no_added_tokens_ = false;
};

// The file's bytes, or those of stdin for "-".
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit = Input::kMaxFileBytes);

// "1,2,3" or "1 2 3": one comma or white space between two.
absl::StatusOr<std::vector<uint32_t>> ParseTokenIds(const std::string& text);

}  // namespace conclave::services::cli
