#include "services/live_request.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"

namespace conclave::services {

using scheduler::Micros;

Micros Now() {
  return std::chrono::duration_cast<Micros>(std::chrono::steady_clock::now().time_since_epoch());
}

class LiveRequest::Attempt : public SequenceSink {
 public:
  Attempt(std::shared_ptr<LiveRequest> request, uint64_t number)
      : request_(std::move(request)), number_(number) {}
  void OnEvent(const v1::SequenceEvent& event) override { request_->OnEvent(number_, event); }
  void OnLost(const absl::Status& status) override { request_->OnLost(number_, status); }

 private:
  const std::shared_ptr<LiveRequest> request_;
  const uint64_t number_;
};

LiveRequest::LiveRequest(const Options& options, uint64_t key, router::Request request,
                         std::optional<Micros> deadline, Micros arrived,
                         std::shared_ptr<Reader> reader, Owner* owner, RouterMetrics* metrics)
    : options_(options),
      key_(key),
      request_(std::move(request)),
      deadline_(deadline),
      arrived_(arrived),
      reader_(std::move(reader)),
      owner_(owner),
      metrics_(metrics),
      adapter_metrics_(metrics->adapters.Of(request_.version.name)) {}

void LiveRequest::Prepare(Assignment assignment, router::Transcript transcript,
                          const v1::ModelInfo& model, std::vector<scheduler::TokenId> received) {
  After after;
  {
    std::lock_guard lock(mutex_);
    assignment_ = std::move(assignment);
    transcript_.emplace(std::move(transcript));
    vocab_size_ = model.vocab_size();
    model_ = ModelKey(model);
    policies_ = model.policies();
    skip_ = request_.resume_from;
    if (skip_ == 0 || end_) return;
    told_.prompt_logprobs = static_cast<int32_t>(assignment_.prompt.size()) - 1;
    if (received.empty()) return;
    router::SequenceEvent event{.tokens = std::move(received)};
    const auto& stops = assignment_.stop_tokens;
    const auto last = static_cast<uint32_t>(event.tokens.back());
    if (std::find(stops.begin(), stops.end(), last) != stops.end()) {
      event.end = scheduler::FinishReason::kStop;
    } else if (std::ssize(event.tokens) == assignment_.max_tokens) {
      event.end = scheduler::FinishReason::kLength;
    }
    const absl::Status status = Tell(std::move(event));
    if (!status.ok() || transcript_->finished()) Finish(status, after);
  }
  Do(after);
}

void LiveRequest::Decide(const router::AdapterNames::Version& version,
                         const router::AutoRecord& choice) {
  std::lock_guard lock(mutex_);
  request_.version = version;
  request_.choice = choice;
  adapter_metrics_ = metrics_->adapters.Of(version.name);
  ++adapter_metrics_->auto_choices;
}

std::vector<scheduler::TokenId> LiveRequest::FirstTokens(size_t count) const {
  std::lock_guard lock(mutex_);
  if (!transcript_) return {};
  const auto& tokens = transcript_->tokens();
  return {tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(std::min(count, tokens.size()))};
}

bool LiveRequest::lost_home() const {
  std::lock_guard lock(mutex_);
  return lost_at_.has_value();
}

int64_t LiveRequest::served() const {
  std::lock_guard lock(mutex_);
  if (!transcript_ || !transcript_->started()) return 0;
  return static_cast<int64_t>(assignment_.prompt.size() + transcript_->tokens().size());
}

bool LiveRequest::Begin(std::shared_ptr<WorkerLink> link) {
  After after;
  bool begun = true;
  {
    std::lock_guard lock(mutex_);
    const Micros now = Now();
    if (end_) {
      after.left_home = true;  // it ended on the way here
    } else if (deadline_ && now >= *deadline_) {
      Finish(absl::DeadlineExceededError("the deadline passed while the request waited for a home"),
             after);
      after.left_home = true;
    } else if (const auto hello = link->hello(); hello && ModelKey(hello->model()) != model_) {
      Finish(absl::UnavailableError("no worker serves the model that the request was begun with"),
             after);
      after.left_home = true;
    } else {
      std::optional<Micros> timeout;
      if (deadline_) timeout = *deadline_ - now;
      // The lock is held, so that the first event finds the sequence's number.
      told_.tokens = transcript_->tokens();
      v1::Submit submit = ToSubmit(request_, assignment_, told_, timeout);
      submit.set_goes_on(lost_at_ || request_.resume_from > 0);
      sequence_ =
          link->Open(std::move(submit), std::make_shared<Attempt>(shared_from_this(), ++attempt_));
      begun = sequence_.has_value();
      if (begun) {
        link_ = std::move(link);
        heard_at_ = now;
        heard_ = false;
        pace_.reset();
        paused_ = false;
        if (!began_) {
          began_ = now;
          metrics_->queue_seconds.Observe(now - arrived_);
        }
      }
    }
  }
  Do(after);
  return begun;
}

void LiveRequest::End(const absl::Status& status) {
  After after;
  {
    std::lock_guard lock(mutex_);
    if (end_) return;
    pending_ = {};
    Finish(status, after);
  }
  Do(after);
}

void LiveRequest::Tick(Micros now, const std::string& all_lack) {
  After after;
  {
    std::lock_guard lock(mutex_);
    if (taken_at_ && now - *taken_at_ > options_.stall) {
      pending_ = {};
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(options_.stall).count();
      const auto status = absl::ResourceExhaustedError(absl::StrFormat(
          "the client does not read: a message waits for it longer than %d s", seconds));
      taken_at_.reset();
      after.stalled = status;
      if (end_) {
        end_ = status;  // the worker was done; the client is told the end it has missed is not
                        // complete
      } else {
        Finish(status, after);
      }
    } else if (!end_) {
      const absl::Status over = OutOfTime(now, all_lack);
      if (over.ok()) {
        after.wants_home = std::exchange(asks_at_tick_, false);
      } else {
        Finish(over, after);
      }
    }
  }
  Do(after);
}

bool LiveRequest::paused() const {
  std::lock_guard lock(mutex_);
  return paused_;
}

std::optional<LiveRequest::Output> LiveRequest::Take() {
  After after;
  std::optional<Output> output;
  {
    std::lock_guard lock(mutex_);
    output = TakeLocked(after);
  }
  Do(after);
  return output;
}

void LiveRequest::Sent() {
  std::lock_guard lock(mutex_);
  SentLocked();
}

void LiveRequest::SentLocked() {
  taken_at_.reset();
  on_its_way_bytes_ = 0;
}

std::optional<LiveRequest::Output> LiveRequest::TakeLocked(After& after) {
  SentLocked();
  if (taken_last_ || (pending_.empty() && !end_)) return std::nullopt;
  Output output{.delta = std::exchange(pending_, {}), .first = !std::exchange(taken_first_, true)};
  on_its_way_bytes_ = output.delta.bytes();
  output.last = taken_last_ = end_.has_value();
  if (output.last) output.status = *end_;
  taken_at_ = Now();
  if (paused_ && sequence_) link_->SetPaused(*sequence_, false);
  after.pause_changed = std::exchange(paused_, false);
  if (after.pause_changed) {
    heard_at_ = Now();
    heard_ = false;
  }
  return output;
}

void LiveRequest::OnEvent(uint64_t attempt, const v1::SequenceEvent& event) {
  const bool others = event.end().lacks_expert() && OthersGoOn();
  After after;
  {
    std::lock_guard lock(mutex_);
    if (end_ || !sequence_ || attempt != attempt_) return;
    Absorb(event, others, after);
  }
  Do(after);
}

void LiveRequest::OnLost(uint64_t attempt, const absl::Status& status) {
  After after;
  {
    std::lock_guard lock(mutex_);
    if (end_ || !sequence_ || attempt != attempt_) return;
    sequence_.reset();
    link_.reset();
    after.left_home = true;
    Lose(absl::UnavailableError(
             absl::StrFormat("the worker was lost: %s", std::string(status.message()))),
         after);
  }
  Do(after);
}

void LiveRequest::Absorb(const v1::SequenceEvent& event, bool others, After& after) {
  NotePace(Now());
  Observe(event);
  absl::StatusOr<router::SequenceEvent> converted = ToSequenceEvent(event, vocab_size_);
  if (!converted.ok()) return Finish(converted.status(), after);
  NoteProgress(event);
  const absl::Status told = Tell(*std::move(converted));
  if (event.has_end()) {
    sequence_.reset();  // the worker has forgotten it
    link_.reset();
    after.left_home = true;
  }
  if (!told.ok() || transcript_->finished()) return Finish(told, after);
  const absl::Status error = EndError(event);
  if (event.end().lacks_adapter() && !error.ok()) return LackAdapter(error);
  if (event.end().lacks_expert() && !error.ok()) return LackExpert(error, others, after);
  if (!error.ok()) return Fail(error, after);
  MaybePause(after);
  after.output = !pending_.empty();
}

absl::Status LiveRequest::Tell(router::SequenceEvent event) {
  const size_t had = std::min(skip_, event.tokens.size());
  if (had > 0) {
    // The tokens alone: what else comes with them the client has too. The last of them may be the
    // last of all.
    router::SequenceEvent known{
        .tokens = {event.tokens.begin(), event.tokens.begin() + static_cast<ptrdiff_t>(had)},
        .cached_prompt_tokens = event.cached_prompt_tokens};
    event.tokens.erase(event.tokens.begin(), event.tokens.begin() + static_cast<ptrdiff_t>(had));
    const size_t reported =
        event.logprobs.size() - std::min(event.logprobs.size(), event.tokens.size());
    event.logprobs.erase(event.logprobs.begin(),
                         event.logprobs.begin() + static_cast<ptrdiff_t>(reported));
    if (event.tokens.empty()) known.end = std::exchange(event.end, std::nullopt);
    skip_ -= had;
    pending_.finish = transcript_->Take(std::move(known)).finish;
  }
  if (!transcript_->finished()) pending_.Append(transcript_->Take(std::move(event)));
  const size_t tokens = transcript_->tokens().size();
  if (!transcript_->finished() || tokens >= request_.resume_from) return absl::OkStatus();
  pending_ = {};
  return absl::InvalidArgumentError(absl::StrFormat(
      "resume_from is %d, but the whole output has %d tokens", request_.resume_from, tokens));
}

void LiveRequest::NoteProgress(const v1::SequenceEvent& event) {
  const bool news = event.has_routing() ||
                    event.replayed_size() + event.tokens_size() + event.prompt_logprobs_size() > 0;
  told_.prompt_logprobs += event.prompt_logprobs_size();
  const v1::Routing& routing = event.routing();
  if (const uint64_t width = uint64_t{routing.layers()} * routing.top_k(); width > 0) {
    told_.routing += static_cast<int32_t>(routing.slots().size() / (width * sizeof(uint16_t)));
  }
  if (!news || !lost_at_) return;
  metrics_->resume_seconds.Observe(Now() - *lost_at_);
  lost_at_.reset();
  losses_ = bereft_ = 0;
}

void LiveRequest::Finish(absl::Status status, After& after) {
  end_ = std::move(status);
  CloseSequence(after);
  after.output = true;
  const Micros now = Now();
  metrics_->Ended(*end_, pending_.finish, now - arrived_);
  if (end_->ok()) adapter_metrics_->request_seconds.Observe(now - arrived_);
  if (transcript_ && end_->ok()) {
    metrics_->prompt_tokens.Observe(static_cast<double>(assignment_.prompt.size()));
    metrics_->generated_tokens.Observe(static_cast<double>(transcript_->tokens().size()));
  }
}

void LiveRequest::CloseSequence(After& after) {
  if (!sequence_) return;
  link_->Close(*sequence_);
  sequence_.reset();
  link_.reset();
  after.left_home = true;
}

void LiveRequest::Observe(const v1::SequenceEvent& event) {
  if (event.tokens_size() == 0) return;
  const Micros now = Now();
  if (!first_token_) {
    first_token_ = now;
    metrics_->first_token_seconds.Observe(now - arrived_);
    adapter_metrics_->first_token_seconds.Observe(now - arrived_);
    adapter_metrics_->prompt_tokens += assignment_.prompt.size();
  } else {
    // Tokens that came together share their wait.
    const Micros each = (now - *last_token_) / event.tokens_size();
    for (int i = 0; i < event.tokens_size(); ++i) metrics_->inter_token_seconds.Observe(each);
  }
  last_token_ = now;
  adapter_metrics_->generated_tokens += static_cast<uint64_t>(event.tokens_size());
}

void LiveRequest::MaybePause(After& after) {
  const int64_t bytes = pending_.bytes();
  metrics_->ObservePending(bytes + on_its_way_bytes_);
  if (paused_ || !sequence_ || bytes <= options_.pending_bytes_pause) return;
  link_->SetPaused(*sequence_, true);
  paused_ = true;
  after.pause_changed = true;
  metrics_->pauses.fetch_add(1, std::memory_order_relaxed);
}

void LiveRequest::Do(const After& after) {
  if (after.left_home) owner_->LeftHome(*this);
  if (after.pause_changed) owner_->PauseChanged(*this);
  if (after.wants_home) owner_->WantsHome(*this);
  if (after.stalled) reader_->OnStalled(*after.stalled);
  if (after.output) reader_->OnOutput();
}

}  // namespace conclave::services
