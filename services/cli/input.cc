#include "services/cli/input.h"

#include <charconv>
#include <fstream>
#include <iostream>

#include "absl/strings/str_format.h"
#include "worker/status.h"

namespace conclave::services::cli {

void Input::AddFlags(Flags& flags, const std::string& text_flag, const std::string& file_flag) {
  text_flag_ = text_flag;
  file_flag_ = file_flag;
  if (!text_flag.empty()) {
    flags.Add({text_flag, &text_, "TEXT", "the text"});
    flags.Add({file_flag, &file_, "FILE", "the text is in this file; - is stdin"});
    flags.Add({"parse-special", &parse_special_, "",
               "special tokens spelled out in the text are tokens, not text"});
    flags.Add({"no-added-tokens", &no_added_tokens_, "",
               "leave out what the tokenizer adds by itself, a beginning-of-sequence token say"});
  }
  flags.Add({"token-ids", &token_ids_, "1,2,3", "token ids; @FILE reads them from a file"});
}

int Input::given(const Flags& flags) const {
  int count = flags.Given("token-ids") ? 1 : 0;
  if (text_flag_.empty()) return count;
  return count + (flags.Given(text_flag_) ? 1 : 0) + (flags.Given(file_flag_) ? 1 : 0);
}

absl::StatusOr<v1::Prompt> Input::Read(const Flags& flags) const {
  if (given(flags) != 1) {
    return absl::InvalidArgumentError(
        text_flag_.empty()
            ? std::string("--token-ids is missing")
            : absl::StrFormat("give one of --%s, --%s, --token-ids", text_flag_, file_flag_));
  }
  v1::Prompt prompt;
  if (flags.Given("token-ids")) {
    std::string text = token_ids_;
    if (!text.empty() && text[0] == '@') {
      CONCLAVE_ASSIGN_OR_RETURN(text, ReadFile(token_ids_.substr(1)));
    }
    CONCLAVE_ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, ParseTokenIds(text));
    prompt.mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
    return prompt;
  }
  prompt.set_text(text_);
  if (flags.Given(file_flag_)) {
    CONCLAVE_ASSIGN_OR_RETURN(*prompt.mutable_text(), ReadFile(file_));
  }
  prompt.set_parse_special(parse_special_);
  prompt.set_no_added_tokens(no_added_tokens_);
  return prompt;
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit) {
  std::ifstream file;
  if (path != "-") file.open(path, std::ios::binary);
  std::istream& in = path == "-" ? std::cin : file;
  if (!in) return absl::NotFoundError(absl::StrFormat("cannot open \"%s\"", path));
  std::string text;
  char chunk[1 << 16];
  while (in.read(chunk, sizeof(chunk)) || in.gcount() > 0) {
    text.append(chunk, static_cast<size_t>(in.gcount()));
    if (text.size() > limit) {
      return absl::InvalidArgumentError(
          absl::StrFormat("\"%s\" is larger than %d bytes", path, limit));
    }
  }
  if (in.bad()) return absl::UnavailableError(absl::StrFormat("cannot read \"%s\"", path));
  return text;
}

absl::StatusOr<std::vector<uint32_t>> ParseTokenIds(const std::string& text) {
  std::vector<uint32_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto skip = [&](const std::string& characters) {
    while (at < end && characters.find(*at) != std::string::npos) ++at;
  };
  skip(" \t\r\n");
  while (at < end) {
    uint32_t id = 0;
    const auto [stop, error] = std::from_chars(at, end, id);
    if (error != std::errc()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "token ids: \"%s\" is not a number below 2^32", std::string(at, std::min(at + 16, end))));
    }
    ids.push_back(id);
    if (ids.size() > Input::kMaxTokenIds) {
      return absl::InvalidArgumentError(
          absl::StrFormat("more than %d token ids", Input::kMaxTokenIds));
    }
    at = stop;
    skip(" \t\r\n,");
  }
  return ids;
}

}  // namespace conclave::services::cli
