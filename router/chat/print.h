#pragma once
// Values as text: as {{ }} shows them (str) and as they look inside a list (repr). One thread.

#include <string>

#include "router/chat/text.h"
#include "router/chat/value.h"

namespace conclave::router::chat {

Text Str(Work& work, const Value& value);
void AppendRepr(Work& work, const Value& value, Text* to);

// As Python prints it: the shortest digits that read back as the same number.
std::string FloatText(double value);

}  // namespace conclave::router::chat
