#include "router/chat/work.h"

#include <algorithm>

namespace conclave::router::chat {

ChatLimits BriefLimits(ChatLimits limits) {
  limits.steps = std::min<int64_t>(limits.steps, 50'000);
  limits.made_bytes = std::min(limits.made_bytes, int64_t{4} << 20);
  limits.output_bytes = std::min(limits.output_bytes, size_t{32} << 10);
  return limits;
}

bool Work::Step(int64_t steps) {
  if (failed()) return false;
  steps_ += steps;
  if (steps_ <= limits_.steps) return true;
  Fail("it takes more than " + std::to_string(limits_.steps) + " steps, the limit");
  return false;
}

bool Work::Make(size_t bytes) {
  if (!Visit(bytes)) return false;
  made_bytes_ += static_cast<int64_t>(bytes);
  if (made_bytes_ <= limits_.made_bytes) return true;
  Fail("its values have more than " + std::to_string(limits_.made_bytes) + " bytes, the limit");
  return false;
}

void Work::Fail(const std::string& what) {
  if (failed()) return;
  error_ = "chat template, line " + std::to_string(line) + ": " + what;
}

void Work::Refuse(const std::string& what) {
  if (!failed()) error_ = "chat template: " + what;
}

}  // namespace conclave::router::chat
