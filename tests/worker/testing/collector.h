#pragma once
// A link that keeps everything an engine told it, by sequence. The thread that steps the engine.

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "worker/engine.h"

namespace conclave::worker::testing {

class Collector final : public Link {
 public:
  struct Answer {
    std::vector<scheduler::TokenId> tokens;
    std::vector<Logprob> logprobs;
    std::vector<Logprob> prompt_logprobs;
    RoutingRecord routing;
    std::optional<SequenceEnd> end;

    bool operator==(const Answer& other) const {
      return tokens == other.tokens && Flat(logprobs) == Flat(other.logprobs) &&
             Flat(prompt_logprobs) == Flat(other.prompt_logprobs) &&
             routing.slots == other.routing.slots && routing.weights == other.routing.weights;
    }
    static std::vector<std::pair<scheduler::TokenId, float>> Flat(
        const std::vector<Logprob>& list) {
      std::vector<std::pair<scheduler::TokenId, float>> out;
      for (const Logprob& l : list) {
        out.emplace_back(l.token, l.logprob);
        out.insert(out.end(), l.top.begin(), l.top.end());
      }
      return out;
    }
  };

  void OnStep(std::vector<SequenceEvent> events) override {
    ++steps;
    for (const SequenceEvent& e : events) {
      Answer& a = answers[e.id];
      EXPECT_FALSE(a.end.has_value()) << "an event after the end of " << e.id;
      if (!e.replayed.empty()) Append(replayed[e.id], e.replayed);
      Append(a.tokens, e.tokens);
      Append(a.logprobs, e.logprobs);
      Append(a.prompt_logprobs, e.prompt_logprobs);
      a.routing.tokens += e.routing.tokens;
      Append(a.routing.slots, e.routing.slots);
      Append(a.routing.weights, e.routing.weights);
      if (e.end) a.end = e.end;
    }
  }

  std::map<uint64_t, Answer> answers;
  std::map<uint64_t, std::vector<scheduler::TokenId>> replayed;
  int steps = 0;

 private:
  template <typename T>
  static void Append(std::vector<T>& to, const std::vector<T>& from) {
    to.insert(to.end(), from.begin(), from.end());
  }
};

}  // namespace conclave::worker::testing
