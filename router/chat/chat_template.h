#pragma once
// A model's chat template: Jinja, as transformers configures it (trim_blocks, lstrip_blocks, an
// immutable sandbox, raise_exception, strftime_now, tojson without HTML). Immutable once loaded;
// any thread.

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "router/chat/rendering.h"
#include "router/chat/syntax.h"
#include "router/chat/text.h"
#include "router/chat/work.h"

namespace conclave::router::chat {

class ChatTemplate {
 public:
  // nullopt and *error: what is wrong with it, or which part of it is not supported, and its line.
  static std::optional<ChatTemplate> Load(std::string_view source, const ChatLimits& limits,
                                          std::string* error);

  // The text, which knows what came from outside. After a failure, which work.error() then tells,
  // what is returned does not matter.
  Text Render(const Variables& variables, Work& work) const;

  // The template's own text and string literals, each after a zero byte: what a control token that
  // it writes is spelled in.
  const std::string& literals() const { return literals_; }

 private:
  ChatTemplate() = default;

  std::shared_ptr<const Body> body_;
  std::string literals_;
};

}  // namespace conclave::router::chat
