// What becomes of a request whose home is lost, late, full or lacks an expert: it goes on at
// another one, waits, or ends and says why.

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/live_request.h"
#include "services/pushback.h"

namespace conclave::services {

using scheduler::Micros;

void LiveRequest::Fail(const absl::Status& status, After& after) {
  // A worker cancels by itself only what it cannot finish before it ends.
  if (absl::IsCancelled(status)) return Lose(absl::UnavailableError(status.message()), after);
  if (absl::IsUnavailable(status)) {
    // A refusal costs nothing but the way to another home.
    if (transcript_->started() || lost_at_) return Lose(status, after);
    if (++losses_ >= options_.attempts) return Finish(status, after);
    after.wants_home = true;
    return;
  }
  if (!absl::IsResourceExhausted(status)) return Finish(status, after);
  // Other routers fill the worker's queue too, past what this one counts.
  if (!transcript_->started() && !lost_at_) {
    return Finish(WithPushback(status, options_.worker_full_pushback), after);
  }
  NoteLoss(status);
  asks_at_tick_ = true;
}

void LiveRequest::NoteLoss(const absl::Status& why) {
  if (!lost_at_) lost_at_ = Now();
  lost_why_ = std::string(why.message());
}

void LiveRequest::Lose(const absl::Status& status, After& after) {
  if (++losses_ >= options_.attempts) return Finish(status, after);
  NoteLoss(status);
  after.wants_home = true;
}

// With a deadline it goes on waiting, at whichever home; without one its wait is over, unless it
// was this home alone that could not reach the expert.
void LiveRequest::LackExpert(const absl::Status& status, bool others, After& after) {
  const bool may_wait = deadline_ || (others && ++bereft_ < options_.bereft_homes);
  if (!may_wait) return Finish(status, after);
  NoteLoss(status);
  after.wants_home = true;
}

// Every home would say the same until the scheduler has told that the version is on disk, where the
// request waits for it.
void LiveRequest::LackAdapter(const absl::Status& status) {
  NoteLoss(status);
  asks_at_tick_ = true;
}

bool LiveRequest::OthersGoOn() const {
  std::shared_ptr<WorkerLink> link;
  {
    std::lock_guard lock(mutex_);
    link = link_;
  }
  return link != nullptr && owner_->OthersGoOn(*link);
}

absl::Status LiveRequest::OutOfTime(Micros now, const std::string& all_lack) const {
  if (!deadline_) {
    if (sequence_ || !lost_at_ || now - *lost_at_ <= options_.homeless) return absl::OkStatus();
    const auto seconds =
        std::chrono::duration_cast<std::chrono::seconds>(options_.homeless).count();
    return absl::UnavailableError(
        absl::StrFormat("%s; none went on with it in %d s", lost_why_, seconds));
  }
  if (now < *deadline_ - LastWords()) return absl::OkStatus();
  const absl::Status stuck = Stuck(now, all_lack);
  if (!stuck.ok() || now < *deadline_) return stuck;
  return absl::DeadlineExceededError("the request's deadline passed");
}

Micros LiveRequest::LastWords() const {
  const Micros given = *deadline_ - arrived_;
  const std::chrono::duration<double, Micros::period> share(options_.last_words_share *
                                                            static_cast<double>(given.count()));
  const auto words = std::clamp(std::chrono::duration_cast<Micros>(share), options_.last_words_min,
                                options_.last_words_max);
  return std::min(words, given / 2);
}

absl::Status LiveRequest::Stuck(Micros now, const std::string& all_lack) const {
  const Micros silent = std::min(options_.stuck_after, LastWords());
  const bool waits = !sequence_ || (!paused_ && now - heard_at_ >= silent);
  const std::string lacks = sequence_ ? link_->load().lacks() : all_lack;
  if (waits && !lacks.empty()) {
    return absl::UnavailableError(
        absl::StrFormat("%s; the request waited for it until its deadline", lacks));
  }
  if (sequence_ || !lost_at_) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrFormat("%s; no worker went on with the request before its deadline", lost_why_));
}

// What comes first has the prompt behind it, what comes late for a client that reads slowly
// nothing.
void LiveRequest::NotePace(Micros now) {
  if (heard_ && !paused_) {
    const Micros gap = now - heard_at_;
    pace_ = pace_ ? *pace_ + (gap - *pace_) / 8 : gap;
  }
  heard_ = true;
  heard_at_ = now;
}

std::optional<Micros> LiveRequest::PaceUnless(const Links& late) const {
  std::lock_guard lock(mutex_);
  if (!sequence_ || std::find(late.begin(), late.end(), link_) != late.end()) return std::nullopt;
  return pace_;
}

void LiveRequest::LeaveLate(const Links& late, Micros usual, Micros now) {
  After after;
  {
    std::lock_guard lock(mutex_);
    const Micros longest = heard_ ? std::max(options_.late_home, options_.late_home_factor * usual)
                                  : options_.late_home_first;
    if (end_ || !sequence_ || paused_ || now - heard_at_ < longest) return;
    if (std::find(late.begin(), late.end(), link_) == late.end()) return;
    CloseSequence(after);
    NoteLoss(absl::UnavailableError("the worker was late"));
    after.wants_home = true;
  }
  Do(after);
}

}  // namespace conclave::services
