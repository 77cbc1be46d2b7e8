#pragma once
// How many tokens one sequence has proposed for its next step: more while they turn out right,
// fewer while they do not, none for a while after several steps in which nothing was right. What a
// sequence gets of that is the planner's to say (BatchPlanner::Propose); what it samples depends on
// neither.
//
// Pure and deterministic: a function of what became of the proposals before. One thread.

#include <cstdint>

namespace conclave::scheduler {

class SpeculationRule {
 public:
  static constexpr int32_t kMaxTokens = 16;  // that Options::tokens may be

  struct Options {
    int32_t tokens = 0;  // proposed for one sequence in one step, at most; 0: never any
    int32_t first = 2;   // proposed at first
    int32_t misses = 4;  // steps in a row in which no proposal was right: then it rests
    int32_t rest = 16;   // steps without proposals; doubled if they are as wrong after it
    int32_t rest_max = 256;
  };
  explicit SpeculationRule(const Options& options);

  // At most so many for the next step.
  int32_t Wants() const { return resting_ > 0 ? 0 : length_; }
  // A step that sampled is over: of `proposed` tokens that it computed the first `accepted` were
  // right.
  void Took(int32_t proposed, int32_t accepted);

 private:
  void Miss();

  Options options_;
  int32_t length_;
  int32_t misses_ = 0;   // in a row
  int32_t resting_ = 0;  // steps left
  int32_t rest_;         // the next one
};

}  // namespace conclave::scheduler
