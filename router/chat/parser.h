#pragma once
// From a chat template's tokens to its syntax: Jinja's grammar, as far as chat templates need it.
// What is left out (include, import, extends, block, autoescape, recursive loops, filters and tests
// that are not here) is refused by name. Pure; any thread.

#include <optional>
#include <vector>

#include "router/chat/lexer.h"
#include "router/chat/syntax.h"
#include "router/chat/work.h"

namespace conclave::router::chat {

// nullopt and *error: what is wrong, or not supported, and in which line.
std::optional<Body> Parse(std::vector<Token> tokens, const ChatLimits& limits, SyntaxError* error);

}  // namespace conclave::router::chat
