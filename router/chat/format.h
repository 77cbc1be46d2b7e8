#pragma once
// "%s is %d" % values and "{} is {}".format(values), as Python has them. One thread.

#include "router/chat/text.h"
#include "router/chat/value.h"

namespace conclave::router::chat {

// format % value: a tuple gives several, a mapping is read by %(name)s.
Text FormatPercent(Work& work, const Text& format, const Value& value);
// With {}, {0}, {name}, {name.attribute}, {name[key]}, !r and !s; a format after a colon may be one
// of width, alignment, precision and type.
Text FormatBraces(Work& work, const Text& format, const Arguments& arguments);

}  // namespace conclave::router::chat
