#include "router/chat/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>

#include "router/chat/access.h"
#include "router/chat/print.h"

namespace conclave::router::chat {
namespace {

constexpr int kWidthMax = 1000;  // of a field, and digits after a point

struct Spec {
  char fill = ' ';
  char align = 0;  // < > ^ =; 0: by the type
  char sign = '-';
  bool alternate = false;
  bool zero = false;
  bool comma = false;
  int width = 0;
  int precision = -1;
  char type = 0;  // 0: none given
};

// The digits at the front of *rest, at most kWidthMax; -1 if there are none.
int TakeNumber(Work& work, std::string_view* rest) {
  int number = -1;
  const auto read = std::from_chars(rest->data(), rest->data() + rest->size(), number);
  if (read.ec == std::errc::result_out_of_range || number > kWidthMax) {
    work.Fail("a format's width or precision is above " + std::to_string(kWidthMax));
    return -1;
  }
  if (read.ec != std::errc()) return -1;
  rest->remove_prefix(static_cast<size_t>(read.ptr - rest->data()));
  return number;
}

bool Take(std::string_view* rest, char c) {
  if (rest->empty() || rest->front() != c) return false;
  rest->remove_prefix(1);
  return true;
}

void AppendPadded(const Spec& spec, char align, const Text& text, Text* to) {
  const size_t size = CharacterCount(text.bytes());
  const auto width = static_cast<size_t>(spec.width);
  const size_t missing = width > size ? width - size : 0;
  const size_t before = align == '>' ? missing : align == '^' ? missing / 2 : 0;
  to->Append(std::string(before, spec.fill));
  to->Append(text);
  to->Append(std::string(missing - before, spec.fill));
}

void AppendNumber(const Spec& spec, std::string digits, bool negative, Text* to) {
  const std::string sign = negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  const auto width = static_cast<size_t>(spec.width);
  const size_t size = sign.size() + digits.size();
  if ((spec.zero || spec.align == '=') && width > size) {
    digits.insert(0, width - size, spec.zero ? '0' : spec.fill);
  }
  AppendPadded(spec, spec.align == 0 || spec.align == '=' ? '>' : spec.align, Text(sign + digits),
               to);
}

void InsertCommas(std::string* digits) {
  size_t end = std::min(digits->find_first_of(".e"), digits->size());
  while (end > 3) digits->insert(end -= 3, ",");
}

void AppendInteger(Work& work, const Spec& spec, int64_t value, Text* to) {
  const uint64_t magnitude =
      value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  const char type = spec.type == 0 ? 'd' : spec.type;
  const int base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  char text[72];
  const auto end = std::to_chars(text, text + sizeof text, magnitude, base);
  std::string digits(text, end.ptr);
  if (type == 'X')
    std::transform(digits.begin(), digits.end(), digits.begin(),
                   [](char c) { return c >= 'a' ? static_cast<char>(c - 32) : c; });
  if (spec.comma) InsertCommas(&digits);
  if (spec.alternate && base != 10) digits = std::string{'0', type} + digits;
  if (spec.precision > static_cast<int>(digits.size())) {
    digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
  }
  if (work.Make(digits.size() + static_cast<size_t>(spec.width))) {
    AppendNumber(spec, std::move(digits), value < 0, to);
  }
}

void AppendFloat(Work& work, const Spec& spec, double value, Text* to) {
  char type = spec.type;
  const bool percent = type == '%';
  if (percent) {
    value *= 100;
    type = 'f';
  }
  std::string digits;
  if (type == 0 && spec.precision < 0) {
    digits = FloatText(std::abs(value));
  } else {
    const char format[] = {'%', '.', '*', type == 0 ? 'g' : type, 0};
    digits.resize(400 + kWidthMax);
    const int size = std::snprintf(digits.data(), digits.size(), format,
                                   spec.precision < 0 ? 6 : spec.precision, std::abs(value));
    digits.resize(static_cast<size_t>(size));
  }
  if (spec.comma) InsertCommas(&digits);
  if (percent) digits += '%';
  if (work.Make(digits.size() + static_cast<size_t>(spec.width))) {
    AppendNumber(spec, std::move(digits), std::signbit(value), to);
  }
}

void AppendString(Work& work, const Spec& spec, const Text& text, char align, Text* to) {
  if (!work.Make(text.size() + static_cast<size_t>(spec.width))) return;
  if (spec.precision < 0) return AppendPadded(spec, align, text, to);
  const size_t end = CharacterOffset(text.bytes(), static_cast<size_t>(spec.precision));
  AppendPadded(spec, align, text.Part(0, end), to);
}

bool IsIntegerType(char type) {
  return std::string_view("diuxXob").find(type) != std::string::npos;
}
bool IsFloatType(char type) { return std::string_view("eEfFgG%").find(type) != std::string::npos; }

// %-10.3f: what stands after the % and the name in parentheses.
Spec TakePercentSpec(Work& work, std::string_view* rest) {
  Spec spec;
  for (bool more = true; more && !rest->empty();) {
    if (Take(rest, '-')) {
      spec.align = '<';
    } else if (Take(rest, '0')) {
      spec.zero = true;
    } else if (Take(rest, '+')) {
      spec.sign = '+';
    } else if (Take(rest, ' ')) {
      spec.sign = spec.sign == '+' ? '+' : ' ';
    } else if (Take(rest, '#')) {
      spec.alternate = true;
    } else {
      more = false;
    }
  }
  if (spec.align == '<') spec.zero = false;
  spec.width = std::max(0, TakeNumber(work, rest));
  if (Take(rest, '.')) spec.precision = std::max(0, TakeNumber(work, rest));
  if (rest->empty()) {
    work.Fail("incomplete format");
    return spec;
  }
  spec.type = rest->front();
  rest->remove_prefix(1);
  return spec;
}

void AppendByPercent(Work& work, const Spec& spec, const Value& value, Text* to) {
  const char align = spec.align == 0 ? '>' : spec.align;
  if (spec.type == 's') return AppendString(work, spec, Str(work, value), align, to);
  if (spec.type == 'r') {
    Text text;
    AppendRepr(work, value, &text);
    return AppendString(work, spec, text, align, to);
  }
  const auto number = value.number();
  if (number && IsFloatType(spec.type) && spec.type != '%') {
    Spec plain = spec;
    if (plain.precision < 0) plain.precision = 6;
    return AppendFloat(work, plain, *number, to);
  }
  if (number && IsIntegerType(spec.type) && spec.type != 'b') {
    if (value.integer()) return AppendInteger(work, spec, *value.integer(), to);
    const bool truncates = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    if (truncates && std::abs(*number) < 9e18) {
      return AppendInteger(work, spec, static_cast<int64_t>(*number), to);
    }
  }
  work.Fail(std::string("format %") + spec.type + " does not take a " + TypeName(value));
}

// [[fill]align][sign][#][0][width][,][.precision][type]
Spec ReadBraceSpec(Work& work, std::string_view text) {
  Spec spec;
  constexpr std::string_view kAligns = "<>^=";
  if (text.size() > 1 && kAligns.find(text[1]) != std::string::npos) {
    spec.fill = text[0];
    spec.align = text[1];
    text.remove_prefix(2);
  } else if (!text.empty() && kAligns.find(text[0]) != std::string::npos) {
    spec.align = text[0];
    text.remove_prefix(1);
  }
  for (const char sign : {'+', '-', ' '}) {
    if (Take(&text, sign)) spec.sign = sign;
  }
  spec.alternate = Take(&text, '#');
  if (Take(&text, '0') && spec.align == 0) spec.zero = true;
  spec.width = std::max(0, TakeNumber(work, &text));
  spec.comma = Take(&text, ',');
  if (Take(&text, '.')) spec.precision = TakeNumber(work, &text);
  if (!text.empty()) {
    spec.type = text[0];
    text.remove_prefix(1);
  }
  if (!text.empty()) work.Fail("a format is not understood");
  return spec;
}

void AppendByBraces(Work& work, const Spec& spec, const Value& value, Text* to) {
  if (value.IsNumber() && !(spec.type == 0 && value.Is<bool>())) {
    const bool whole = value.integer().has_value();
    if (whole && (spec.type == 0 || IsIntegerType(spec.type))) {
      return AppendInteger(work, spec, *value.integer(), to);
    }
    if (IsFloatType(spec.type) || (spec.type == 0 && !whole)) {
      return AppendFloat(work, spec, *value.number(), to);
    }
  }
  const bool plain = spec.width == 0 && spec.precision < 0 && spec.type == 0;
  if (!plain && (!value.IsString() || (spec.type != 's' && spec.type != 0))) {
    return work.Fail("a format does not take a " + TypeName(value));
  }
  AppendString(work, spec, Str(work, value), spec.align == 0 ? '<' : spec.align, to);
}

// The fields of one str.format call, in order.
class Fields {
 public:
  Fields(Work& work, const Arguments& arguments) : work_(work), arguments_(arguments) {}

  // "0.name[key]!r:>10"
  void Append(std::string_view field, Text* to) {
    const size_t colon = field.find(':');
    const std::string_view spec = colon == field.npos ? "" : field.substr(colon + 1);
    field = field.substr(0, colon);
    const size_t bang = field.find('!');
    const std::string_view conversion = bang == field.npos ? "" : field.substr(bang + 1);
    Value value = Look(field.substr(0, bang));
    if (conversion == "r") {
      Text text;
      AppendRepr(work_, value, &text);
      value = MakeString(work_, std::move(text));
    } else if (conversion == "s") {
      value = MakeString(work_, Str(work_, value));
    } else if (!conversion.empty()) {
      work_.Fail("a format has a conversion other than !r and !s");
    }
    if (!work_.failed()) AppendByBraces(work_, ReadBraceSpec(work_, spec), value, to);
  }

 private:
  Value Look(std::string_view path) {
    const size_t end = std::min(path.find_first_of(".["), path.size());
    Value value = Root(path.substr(0, end));
    path.remove_prefix(end);
    while (!path.empty() && !work_.failed()) {
      const bool item = path[0] == '[';
      path.remove_prefix(1);
      const size_t stop = item ? path.find(']') : std::min(path.find_first_of(".["), path.size());
      if (stop == path.npos) {
        work_.Fail("a format's [ is not closed");
        break;
      }
      const std::string_view name = path.substr(0, stop);
      value =
          item ? GetPath(work_, value, MakeString(work_, name)) : GetAttribute(work_, value, name);
      path.remove_prefix(item ? stop + 1 : stop);
    }
    return value;
  }

  Value Root(std::string_view name) {
    size_t index = 0;
    const auto read = std::from_chars(name.data(), name.data() + name.size(), index);
    if (name.empty()) {
      index = next_++;
      counts_ = true;
    } else if (read.ec != std::errc() || read.ptr != name.data() + name.size()) {
      if (!work_.Scan(arguments_.keyword.size())) return {};
      for (const auto& [key, value] : arguments_.keyword) {
        if (key == name) return value;
      }
      work_.Fail("format has no argument '" + std::string(name) + "'");
      return {};
    } else {
      numbered_ = true;
    }
    if (counts_ && numbered_)
      work_.Fail("a format has both {} and {" + std::to_string(index) + "}");
    if (index < arguments_.positional.size()) return arguments_.positional[index];
    work_.Fail("format has no argument number " + std::to_string(index));
    return {};
  }

  Work& work_;
  const Arguments& arguments_;
  size_t next_ = 0;
  bool counts_ = false;    // there was {}
  bool numbered_ = false;  // there was {0}
};

}  // namespace

Text FormatPercent(Work& work, const Text& format, const Value& value) {
  Text formatted;
  if (!work.Make(format.size())) return formatted;
  const Sequence* const sequence = value.sequence();
  const bool tuple = sequence != nullptr && sequence->kind == Sequence::Kind::kTuple;
  const std::vector<Value> single = {value};
  const std::vector<Value>& values = tuple ? sequence->items : single;
  size_t next = 0;
  bool named = value.dict() != nullptr;
  const std::string_view bytes = format.bytes();
  for (size_t at = 0; at < bytes.size() && work.Step();) {
    const size_t percent = std::min(bytes.find('%', at), bytes.size());
    formatted.AppendPart(format, at, percent);
    if (percent == bytes.size()) break;
    std::string_view rest = bytes.substr(percent + 1);
    const Value* chosen = nullptr;
    if (Take(&rest, '(')) {
      const size_t close = std::min(rest.find(')'), rest.size());
      chosen = value.dict() == nullptr ? nullptr : value.dict()->Find(rest.substr(0, close));
      if (chosen == nullptr) work.Fail("a format names a key that is not there");
      rest.remove_prefix(std::min(close + 1, rest.size()));
    }
    const Spec spec = TakePercentSpec(work, &rest);
    at = bytes.size() - rest.size();
    if (work.failed()) break;
    if (spec.type == '%') {
      formatted.Append("%");
      continue;
    }
    if (chosen == nullptr) {
      named = false;
      if (next == values.size()) {
        work.Fail("not enough arguments for format string");
        break;
      }
      chosen = &values[next++];
    }
    AppendByPercent(work, spec, *chosen, &formatted);
  }
  if (next < values.size() && !named) work.Fail("not all arguments converted during formatting");
  return formatted;
}

Text FormatBraces(Work& work, const Text& format, const Arguments& arguments) {
  Text formatted;
  if (!work.Make(format.size())) return formatted;
  Fields fields(work, arguments);
  const std::string_view bytes = format.bytes();
  for (size_t at = 0; at < bytes.size() && work.Step();) {
    const size_t brace = std::min(bytes.find_first_of("{}", at), bytes.size());
    formatted.AppendPart(format, at, brace);
    if (brace == bytes.size()) break;
    if (brace + 1 < bytes.size() && bytes[brace + 1] == bytes[brace]) {
      formatted.AppendPart(format, brace, brace + 1);
      at = brace + 2;
      continue;
    }
    const size_t close = bytes.find_first_of("{}", brace + 1);
    if (bytes[brace] == '}' || close == bytes.npos || bytes[close] == '{') {
      work.Fail("a format has a brace alone, or one in another");
      break;
    }
    fields.Append(bytes.substr(brace + 1, close - brace - 1), &formatted);
    at = close + 1;
  }
  return formatted;
}

}  // namespace conclave::router::chat
