#pragma once
// The expressions of a chat template: {{ ... }}, and what stands in {% ... %}. One thread.

#include <string>
#include <string_view>
#include <vector>

#include "router/chat/syntax.h"
#include "router/chat/token_stream.h"

namespace conclave::router::chat {

// Each takes what it parses from the stream; null once the stream failed.

// One expression, or several with commas between, which make a tuple. conditional: `a if b else c`
// may stand at its top.
ExpressionPtr ParseTuple(TokenStream& stream, bool conditional = true);
ExpressionPtr ParseExpression(TokenStream& stream, bool conditional = true);
// |filter|filter(...) over `input`, which is null for the text of a block. first: its name stands
// without a bar.
ExpressionPtr ParseFilters(TokenStream& stream, ExpressionPtr input, bool first_without_bar);

// What a value is assigned to. with_namespace: ns.name may be one.
Target ParseTarget(TokenStream& stream, bool with_namespace);

}  // namespace conclave::router::chat
