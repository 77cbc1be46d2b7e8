#include "router/delta.h"

#include <iterator>

#include "scheduler/check.h"

namespace conclave::router {
namespace {

int64_t Bytes(const std::vector<Logprob>& logprobs) {
  int64_t bytes = static_cast<int64_t>(logprobs.size() * sizeof(Logprob));
  for (const Logprob& logprob : logprobs) {
    bytes += static_cast<int64_t>(logprob.top.size() * sizeof(logprob.top[0]));
  }
  return bytes;
}

template <typename T>
void Move(std::vector<T>& from, std::vector<T>& to) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

int64_t Delta::bytes() const {
  int64_t bytes = static_cast<int64_t>(text.size() + tokens.size() * sizeof(tokens[0]));
  bytes += Bytes(logprobs) + Bytes(prompt_logprobs);
  if (routing) bytes += static_cast<int64_t>(routing->slots.size() + routing->weights.size());
  return bytes;
}

void Delta::Append(Delta next) {
  CONCLAVE_CHECK(!finish);
  text += next.text;
  Move(next.tokens, tokens);
  Move(next.logprobs, logprobs);
  Move(next.prompt_logprobs, prompt_logprobs);
  if (routing && next.routing) {
    routing->slots += next.routing->slots;
    routing->weights += next.routing->weights;
  } else if (next.routing) {
    routing = std::move(next.routing);
  }
  finish = std::move(next.finish);
}

}  // namespace conclave::router
