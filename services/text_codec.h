#pragma once
// Tokens of what clients write, be it tokens, a text or a chat, and text of tokens. What takes
// longer than a network thread may work goes to a few threads of its own.
//
// Threads: every method from any thread; none blocks but Finish.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "router/request.h"
#include "router/tokenizer.h"
#include "scheduler/types.h"
#include "services/work_pool.h"

namespace conclave::router::chat {
class ChatTemplates;
struct ChatLimits;
struct Conversation;
}  // namespace conclave::router::chat

namespace conclave::services {

class TextCodec {
 public:
  struct Options {
    int32_t threads = 1;
    int32_t queue = 64;           // prompts waiting for a thread
    int64_t inline_bytes = 2048;  // shorter ones are tokenised where they arrive
  };

  using Tokens = absl::StatusOr<std::vector<scheduler::TokenId>>;
  using Done = std::function<void(const Tokens&)>;
  using Templates = std::shared_ptr<const router::chat::ChatTemplates>;

  // tokenizer: null serves token ids alone. templates: null serves no chat.
  TextCodec(const Options& options, std::shared_ptr<const router::Tokenizer> tokenizer,
            Templates templates);
  void Finish();  // what is queued; nothing may be encoded afterwards

  const router::Tokenizer* tokenizer() const { return tokenizer_.get(); }

  // Calls `done` once, on this thread or another; INVALID_ARGUMENT for what the tokenizer or the
  // template refuses. False, without effect, if too many wait for a thread.
  bool Encode(router::Prompt prompt, const Done& done);
  // OK unless the conversation needs a chat template that is not there.
  absl::Status JudgeChat(const router::chat::Conversation& conversation) const;

 private:
  // What takes no more than some milliseconds; nullopt: it is work for the pool.
  std::optional<Tokens> EncodeNow(const router::Prompt& prompt) const;
  Tokens EncodeAll(const router::Prompt& prompt) const;
  Tokens EncodeChat(const router::Prompt& prompt, const router::chat::ChatLimits& limits) const;
  bool IsShort(const router::Prompt& prompt) const;

  const Options options_;
  const std::shared_ptr<const router::Tokenizer> tokenizer_;
  const Templates templates_;
  std::unique_ptr<WorkPool> pool_;
};

}  // namespace conclave::services
