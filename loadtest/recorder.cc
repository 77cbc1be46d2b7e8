#include "loadtest/recorder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"

namespace conclave::loadtest {
namespace {

// A plot has this many points where the length of the run is known.
constexpr int kWindowsOfARun = 60;
constexpr std::chrono::milliseconds kNarrowestWindow(100);

Timeline MakeTimeline(const Options& options, const Workload& workload) {
  double seconds = options.duration.count();
  for (const Phase& phase : workload.options().phases) seconds += phase.seconds;
  if (seconds <= 0) return Timeline(kNarrowestWindow);
  const auto width = std::chrono::duration<double>(seconds / kWindowsOfARun);
  return Timeline(std::max<Timeline::Nanos>(kNarrowestWindow,
                                            std::chrono::duration_cast<Timeline::Nanos>(width)));
}

double Milliseconds(Clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

// Whether the time keeps a limit in milliseconds; 0 is none.
bool Keeps(Clock::duration time, double limit_ms) {
  return limit_ms <= 0 || Milliseconds(time) <= limit_ms;
}

Clock::duration TimePerToken(const Progress& progress) {
  if (progress.tokens < 2) return Clock::duration(0);
  return (progress.last_token - progress.first_token) / static_cast<int64_t>(progress.tokens - 1);
}

// The end is the first that is seen of an answer without a token.
bool Good(const Objectives& want, const Job& job, const Progress& progress, Clock::time_point now) {
  const Clock::time_point first = progress.tokens > 0 ? progress.first_token : now;
  return Keeps(first - job.due, want.ttft_ms) && Keeps(progress.longest_gap, want.itl_ms) &&
         Keeps(TimePerToken(progress), want.tpot_ms) && Keeps(now - job.due, want.e2e_ms);
}

std::string CodeOf(const grpc::Status& status) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()));
}

}  // namespace

Recorder::Recorder(const Options& options, const Workload& workload)
    : options_(options), workload_(workload) {
  results_.timeline = MakeTimeline(options, workload);
  double begin = 0;
  for (const Phase& phase : workload.options().phases) {
    results_.phases.push_back({.name = phase.name, .begin = begin, .seconds = phase.seconds});
    begin += phase.seconds;
  }
  for (const Action& action : options.actions) {
    results_.actions.push_back(
        {.name = action.name, .command = absl::StrJoin(action.command, " "), .at = action.at});
  }
}

void Recorder::Begin(Clock::time_point start) {
  const std::lock_guard lock(mutex_);
  start_ = start;
}

template <typename Change>
void Recorder::Count(const Ask& ask, const Place& place, Change change) {
  change(results_);
  change(OfAdapter(ask.prompt.adapter));
  change(results_.timeline.At(place.at - start_));
  if (!results_.phases.empty()) change(results_.phases[place.phase].measures);
  for (ActionResult& action : results_.actions) {
    const bool over = action.end && *action.end < Since(place.from);
    if (action.begin && *action.begin <= Since(place.to) && !over) change(action.measures);
  }
}

Measures& Recorder::OfAdapter(const std::string& name) {
  const auto found = results_.adapters.find(name);
  if (found != results_.adapters.end()) return found->second;
  const bool room = results_.adapters.size() < Results::kAdaptersKept;
  return results_.adapters[room ? name : Results::kOtherAdapters];
}

void Recorder::Unsent(const Ask& ask, Clock::time_point due) {
  const std::lock_guard lock(mutex_);
  Count(ask, {due, due, ask.phase, due}, [](Measures& measures) {
    ++measures.unsent;
    ++measures.judged;
  });
}

void Recorder::Sent(const Job& job, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  results_.lag.Record(now - job.due);
  results_.slowly_read += job.slow_rate.has_value();
  results_.cut += job.ask.cut;
  Count(job.ask, WhenDue(job, job.due), [](Measures& measures) { ++measures.sent; });
}

void Recorder::Tokens(const Job& job, const Progress& before, uint64_t count,
                      Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  const bool first = before.tokens == 0;
  if (first) {
    Count(job.ask, WhenDue(job, now),
          [&](Measures& measures) { measures.ttft.Record(now - job.due); });
  }
  const Clock::time_point from = first ? now : before.last_token;
  Count(job.ask, {from, now, workload_.PhaseAt(now - start_), now}, [&](Measures& measures) {
    measures.output_tokens += count;
    if (!first && !job.slow_rate) measures.itl.Record(now - from);
  });
}

void Recorder::End(const Job& job, const Progress& progress, const grpc::Status& status,
                   bool cancelled, const Expectation& expectation, Clock::time_point now) {
  if (wants_messages()) WriteSample(job, progress, status, now);
  const std::lock_guard lock(mutex_);
  const bool whole = status.ok() && progress.complete;
  cancelled = cancelled && status.error_code() == grpc::StatusCode::CANCELLED;
  Place seen = WhenDue(job, now);
  seen.at = now;
  Count(job.ask, seen, [&](Measures& measures) {
    if (whole) measures.input_tokens += progress.prompt_tokens;
    ++(whole ? measures.completed : cancelled ? measures.cancelled : measures.failed);
  });
  if (whole) {
    ++results_.by_code["OK"];
    if (progress.tokens > 1 && !job.slow_rate) results_.tpot.Record(TimePerToken(progress));
  } else if (!cancelled) {
    EndBroken(job, progress, status, now);
  }
  if (!cancelled && !job.slow_rate) Judge(job, progress, whole, now);
  Check(job, progress, whole, expectation);
}

void Recorder::Judge(const Job& job, const Progress& progress, bool whole, Clock::time_point now) {
  const bool good = whole && Good(options_.objectives, job, progress, now);
  Count(job.ask, WhenDue(job, now), [&](Measures& measures) {
    if (whole) measures.e2e.Record(now - job.due);
    ++measures.judged;
    measures.good += good;
  });
}

void Recorder::EndBroken(const Job& job, const Progress& progress, const grpc::Status& status,
                         Clock::time_point now) {
  if (status.ok()) ++results_.incomplete;
  const std::string code = CodeOf(status);
  ++results_.by_code[code];
  if (!status.ok()) {
    results_.first_message.emplace(code, absl::Utf8SafeCHexEscape(status.error_message()));
  }
  const bool refused = status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED ||
                       status.error_code() == grpc::StatusCode::UNAVAILABLE;
  if (progress.tokens == 0) {
    (refused ? results_.refusal : results_.broken).Record(now - job.due);
  } else if (!job.slow_rate) {
    results_.broken.Record(now - progress.last_token);
  }
}

void Recorder::Check(const Job& job, const Progress& progress, bool whole,
                     const Expectation& expectation) {
  if (!expectation.any() || (progress.tokens == 0 && !whole)) return;
  ++results_.checked;
  const std::optional<std::string> difference = expectation.Difference(whole);
  if (!difference) return;
  ++results_.mismatched;
  if (results_.mismatches.size() < Results::kMismatchesKept) {
    results_.mismatches.push_back({job.ask.prompt.line, *difference});
  }
}

void Recorder::WriteSample(const Job& job, const Progress& progress, const grpc::Status& status,
                           Clock::time_point now) {
  const auto since = [&](Clock::time_point time) {
    return std::chrono::duration_cast<std::chrono::microseconds>(time - start_).count();
  };
  Sample sample = {.index = job.index,
                   .due_us = since(job.due),
                   .sent_us = since(progress.sent),
                   .end_us = since(now),
                   .status = CodeOf(status),
                   .complete = progress.complete,
                   .prompt_tokens = progress.prompt_tokens,
                   .adapter = job.ask.prompt.adapter};
  for (const auto& [at, tokens] : progress.messages) {
    sample.messages.push_back({.at_us = since(at), .tokens = tokens});
  }
  options_.samples->Write(sample);
}

void Recorder::ActionBegan(size_t action, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  results_.actions[action].begin = Since(now);
}

void Recorder::ActionEnded(size_t action, const ActionEnd& end, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  ActionResult& result = results_.actions[action];
  result.end = Since(now);
  result.ok = end.ok;
  result.outcome = end.outcome;
  result.output = end.output;
}

Results Recorder::Take() {
  const std::lock_guard lock(mutex_);
  return std::move(results_);
}

}  // namespace conclave::loadtest
