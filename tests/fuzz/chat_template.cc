// Whatever a chat template and its messages say: an error, or a text that says where each part is
// from. Input: the template, a zero byte, template arguments (JSON), a zero byte, a message.

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>

#include "router/chat/chat_prompt.h"
#include "router/utf8.h"
#include "scheduler/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace conclave::router;
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const auto take = [&rest] {
    const std::string_view part = rest.substr(0, rest.find('\0'));
    rest.remove_prefix(part.size() < rest.size() ? part.size() + 1 : part.size());
    return std::string(part);
  };
  // Small enough that a rendering ends long before a fuzzer loses patience.
  const chat::ChatLimits limits{
      .steps = 2'000, .made_bytes = 1 << 18, .output_bytes = 1 << 14, .range_items = 1000};
  std::string error;
  const auto loaded = chat::ChatTemplate::Load(take(), limits, &error);
  if (!loaded) {
    CONCLAVE_CHECK(!error.empty());
    return 0;
  }
  chat::Conversation conversation;
  conversation.arguments = take();
  // What arrives over the wire is UTF-8.
  const std::string content = ReplaceInvalidUtf8(rest);
  conversation.messages = {
      {.role = "system", .content = "ours"},
      {.role = "user", .content = content},
      {.role = "assistant", .tool_calls = {{"id", "f", R"({"x": [1, "y"]})"}}}};
  conversation.tools = R"([{"type": "function", "function": {"name": "f"}}])";
  conversation.continue_final_message = size % 7 == 0;
  if (conversation.continue_final_message) conversation.messages.pop_back();
  const std::tm day = {.tm_mday = 21, .tm_year = 125};
  const auto text = chat::RenderChat(*loaded, {}, conversation, limits, day, &error);
  if (!text) {
    CONCLAVE_CHECK(!error.empty());
    return 0;
  }
  CONCLAVE_CHECK(IsUtf8(text->bytes()));
  size_t done = 0;
  for (const ByteRange& range : text->outside()) {
    CONCLAVE_CHECK(range.begin >= done && range.begin < range.end);
    done = range.end;
  }
  CONCLAVE_CHECK(done <= text->size());
  return 0;
}
