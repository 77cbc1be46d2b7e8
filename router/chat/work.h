#pragma once
// What one rendering has used up, and how it failed. A template and its messages are both from
// outside: every step and every byte they make is counted here, and the first failure stops all
// that follows. One thread.

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

namespace conclave::router::chat {

struct ChatLimits {
  // Of a template, when it is loaded.
  size_t template_bytes = size_t{256} << 10;
  size_t templates = 32;  // that a model brings
  int32_t syntax_nodes = 50'000;
  int32_t syntax_depth = 120;  // of expressions and statements in one another
  // Of one rendering.
  int64_t steps = 4'000'000;                // nodes evaluated, items and 64 bytes visited
  int64_t made_bytes = int64_t{128} << 20;  // of all values made on the way
  size_t output_bytes = size_t{4} << 20;
  int32_t evaluation_depth = 500;   // expressions, statements and macros in one another
  int32_t value_depth = 100;        // lists and mappings in one another
  int64_t range_items = 100'000;    // as Jinja's sandbox
  size_t template_arguments = 256;  // names that a request gives a template
};

// What of them may be used up where others wait: some milliseconds.
ChatLimits BriefLimits(ChatLimits limits);

class Work {
 public:
  // now: what strftime_now() shows.
  Work(const ChatLimits& limits, const std::tm& now) : limits_(limits), now_(now) {}

  // False once something failed, this included.
  bool Step(int64_t steps = 1);
  // Looking at so many bytes.
  bool Visit(size_t bytes) { return Step(1 + static_cast<int64_t>(bytes / 64)); }
  // Going through so many names for one of them.
  bool Scan(size_t names) { return Step(1 + static_cast<int64_t>(names / 16)); }
  bool Make(size_t bytes);
  // The first failure is kept.
  void Fail(const std::string& what);
  // raise_exception: the template's own refusal.
  void Refuse(const std::string& what);

  bool failed() const { return !error_.empty(); }
  const std::string& error() const { return error_; }
  const ChatLimits& limits() const { return limits_; }
  const std::tm& now() const { return now_; }

  // Belongs to the rendering until its end.
  template <typename T>
  T* Keep(std::shared_ptr<T> object) {
    kept_.push_back(object);
    return object.get();
  }

  int32_t line = 0;  // of the template, that is being evaluated

 private:
  const ChatLimits limits_;
  const std::tm now_;
  int64_t steps_ = 0;
  int64_t made_bytes_ = 0;
  std::string error_;
  std::vector<std::shared_ptr<void>> kept_;
};

}  // namespace conclave::router::chat
