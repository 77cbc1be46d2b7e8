#include "services/cli/input.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iostream>
#include <string_view>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

constexpr char kTokenIds[] = "token-ids";

}  // namespace

void Input::AddFlags(Flags& flags, const std::string& text_flag, const std::string& file_flag) {
  AddTextFlags(flags, text_flag, file_flag);
  AddTokenIdsFlag(flags);
}

void Input::AddTextFlags(Flags& flags, const std::string& text_flag, const std::string& file_flag) {
  file_flag_ = file_flag;
  flags.Add({text_flag, &text_, "TEXT", "the text"});
  flags.Add({file_flag, &file_, "FILE", "the text is in this file; - is stdin"});
  flags.Add({"parse-special", &parse_special_, "",
             "special tokens spelled out in the text are tokens, not text"});
  flags.Add({"no-added-tokens", &no_added_tokens_, "",
             "leave out what the tokenizer adds by itself, a beginning-of-sequence token say"});
  names_.insert(names_.end(), {text_flag, file_flag});
}

void Input::AddTokenIdsFlag(Flags& flags) {
  flags.Add({kTokenIds, &token_ids_, "1,2,3", "token ids; @FILE reads them from a file"});
  names_.push_back(kTokenIds);
}

int Input::given(const Flags& flags) const {
  return static_cast<int>(std::count_if(names_.begin(), names_.end(),
                                        [&](const auto& name) { return flags.Given(name); }));
}

absl::StatusOr<v1::Prompt> Input::Read(const Flags& flags) const {
  if (given(flags) != 1) {
    const std::string names = absl::StrJoin(names_, ", --");
    return absl::InvalidArgumentError(names_.size() == 1
                                          ? absl::StrFormat("--%s is missing", names)
                                          : absl::StrFormat("give one of --%s", names));
  }
  v1::Prompt prompt;
  if (flags.Given(kTokenIds)) {
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
  const auto skip_space = [&] {
    while (at < end && std::string_view(" \t\r\n").find(*at) != std::string_view::npos) ++at;
  };
  skip_space();
  bool more = at < end;
  while (more) {
    uint32_t id = 0;
    const auto [stop, error] = std::from_chars(at, end, id);
    if (error != std::errc()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("token ids: %s, want a number below 2^32",
                          at == end ? std::string("nothing after the last comma")
                                    : "\"" + std::string(at, std::min(at + 16, end)) + "\""));
    }
    ids.push_back(id);
    if (ids.size() > Input::kMaxTokenIds) {
      return absl::InvalidArgumentError(
          absl::StrFormat("more than %d token ids", Input::kMaxTokenIds));
    }
    at = stop;
    skip_space();
    more = at < end;
    if (more && *at == ',') {
      ++at;
      skip_space();
    }
  }
  return ids;
}

}  // namespace conclave::services::cli
