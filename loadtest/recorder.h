#pragma once
// Where streams and actions report to: counts what they say for everything it belongs to (the whole
// run, the adapter, the phase, the window of time, actions that ran meanwhile). Any thread.

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "loadtest/expectation.h"
#include "loadtest/request.h"
#include "loadtest/results.h"

namespace conclave::loadtest {

// How far a stream has come.
struct Progress {
  Clock::time_point sent;
  uint64_t tokens = 0;
  Clock::time_point first_token;
  Clock::time_point last_token;
  Clock::duration longest_gap{0};
  bool complete = false;  // it had a finish reason
  uint32_t prompt_tokens = 0;
  // When tokens came, and how many; only where samples are wanted.
  std::vector<std::pair<Clock::time_point, uint64_t>> messages;
};

class Recorder {
 public:
  // Both must outlive this.
  Recorder(const Options& options, const Workload& workload);

  void Begin(Clock::time_point start);  // before anything else

  bool wants_messages() const { return options_.samples != nullptr; }
  void Unsent(const Ask& ask, Clock::time_point due);
  void Sent(const Job& job, Clock::time_point now);
  // A message with `count` tokens; `before` it the stream had come so far.
  void Tokens(const Job& job, const Progress& before, uint64_t count, Clock::time_point now);
  // `cancelled`: by us.
  void End(const Job& job, const Progress& progress, const grpc::Status& status, bool cancelled,
           const Expectation& expectation, Clock::time_point now);

  void ActionBegan(size_t action, Clock::time_point now);
  void ActionEnded(size_t action, const ActionEnd& end, Clock::time_point now);

  Results Take();

 private:
  // Where a change of the measures counts: for waits that overlap [from, to], in the phase, in the
  // window of `at`.
  struct Place {
    Clock::time_point from;
    Clock::time_point to;
    size_t phase = 0;
    Clock::time_point at;
  };
  Place WhenDue(const Job& job, Clock::time_point now) const {
    return {job.due, now, job.ask.phase, job.due};
  }
  template <typename Change>
  void Count(const Ask& ask, const Place& place, Change change);
  Measures& OfAdapter(const std::string& name);
  double Since(Clock::time_point time) const {
    return std::chrono::duration<double>(time - start_).count();
  }

  void Judge(const Job& job, const Progress& progress, bool whole, Clock::time_point now);
  void EndBroken(const Job& job, const Progress& progress, const grpc::Status& status,
                 Clock::time_point now);
  void WriteSample(const Job& job, const Progress& progress, const grpc::Status& status,
                   Clock::time_point now);
  void Check(const Job& job, const Progress& progress, bool whole, const Expectation& expectation);

  const Options& options_;
  const Workload& workload_;
  std::mutex mutex_;
  Clock::time_point start_;
  Results results_;
};

}  // namespace conclave::loadtest
