#include "loadtest/stream.h"

#include <algorithm>
#include <utility>

namespace conclave::loadtest {

Stream::Stream(Job job, std::chrono::duration<double> timeout, Recorder& recorder, OpenCalls& open)
    : job_(std::move(job)),
      expectation_(job_.ask.prompt),
      recorder_(recorder),
      open_(open),
      deadline_(Clock::now() + std::chrono::duration_cast<Clock::duration>(timeout)) {
  const auto limit = std::chrono::duration_cast<std::chrono::microseconds>(timeout);
  call_->context.set_deadline(std::chrono::system_clock::now() + limit);
}

void Stream::Start(v1::Inference::Stub& stub) {
  open_.Add(call_);
  progress_.sent = Clock::now();
  recorder_.Sent(job_, progress_.sent);
  stub.async()->Generate(&call_->context, &job_.request, this);
  AddHold();  // keeps this alive until it is cancelled below
  StartRead(&response_);
  StartCall();
  if (job_.cancel_at == 0) call_->Cancel();
  RemoveHold();
}

void Stream::OnReadDone(bool ok) {
  if (!ok) return;
  const uint64_t tokens = TakeResponse();
  if (job_.cancel_at && progress_.tokens >= *job_.cancel_at && !call_->cancelled) call_->Cancel();
  if (job_.slow_rate && tokens > 0) {
    ReadLater(tokens);
  } else {
    StartRead(&response_);
  }
}

void Stream::OnDone(const grpc::Status& status) {
  recorder_.End(job_, progress_, status, call_->cancelled, expectation_, Clock::now());
  OpenCalls& open = open_;
  std::shared_ptr<Call> call = call_;
  delete this;
  open.Remove(std::move(call));
}

uint64_t Stream::TakeResponse() {
  const Clock::time_point now = Clock::now();
  const auto count = static_cast<uint64_t>(response_.token_ids_size());
  progress_.complete |= response_.finish_reason() != v1::FINISH_REASON_UNSPECIFIED;
  if (response_.has_usage()) progress_.prompt_tokens = response_.usage().prompt_tokens();
  if (expectation_.any()) {
    expectation_.Take(response_.text(), {response_.token_ids().data(), count});
  }
  if (count == 0) return 0;
  if (recorder_.wants_messages()) progress_.messages.emplace_back(now, count);
  recorder_.Tokens(job_, progress_, count, now);
  if (progress_.tokens == 0) {
    progress_.first_token = now;
  } else {
    progress_.longest_gap = std::max(progress_.longest_gap, now - progress_.last_token);
  }
  progress_.last_token = now;
  progress_.tokens += count;
  return count;
}

void Stream::ReadLater(uint64_t tokens) {
  const std::chrono::duration<double> pause(static_cast<double>(tokens) / *job_.slow_rate);
  const Clock::duration left = deadline_ - Clock::now();
  read_at_ = Clock::now() + (pause < left ? std::chrono::duration_cast<Clock::duration>(pause)
                                          : std::max(left, Clock::duration(0)));
  AddHold();  // so that the end of the stream does not come before the alarm's
  Wait();
}

void Stream::Wait() {
  const Clock::duration left = read_at_ - Clock::now();
  if (left.count() > 0 && !call_->cancelled) {
    const auto slice = std::min<Clock::duration>(left, kStopCheck);
    alarm_.emplace();
    alarm_->Set(std::chrono::system_clock::now() + slice, [this](bool) { Wait(); });
    return;
  }
  StartRead(&response_);
  RemoveHold();
}

}  // namespace conclave::loadtest
