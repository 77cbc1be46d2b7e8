#pragma once
// The receiving side: reactors of one generation each, whose reactions gRPC's threads bring one at
// a time.

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>

#include "conclave/v1/inference.grpc.pb.h"
#include "loadtest/expectation.h"
#include "loadtest/open_calls.h"
#include "loadtest/recorder.h"
#include "loadtest/request.h"

namespace conclave::loadtest {

// How soon a stop is noticed.
inline constexpr std::chrono::milliseconds kStopCheck(100);

// One generation from its start to its end, which deletes it. A slow reader asks for a message only
// when it has had the time for those before.
class Stream : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Stream(Job job, std::chrono::duration<double> timeout, Recorder& recorder, OpenCalls& open);

  void Start(v1::Inference::Stub& stub);

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  // Returns the tokens of the message.
  uint64_t TakeResponse();
  // Reads on once the time for `tokens` has passed, or the stream was cancelled or has no time
  // left.
  void ReadLater(uint64_t tokens);
  void Wait();

  Job job_;
  Expectation expectation_;
  Recorder& recorder_;
  OpenCalls& open_;
  const Clock::time_point deadline_;
  std::shared_ptr<Call> call_ = std::make_shared<Call>();
  v1::GenerateResponse response_;
  Progress progress_;
  Clock::time_point read_at_;
  // A new one for each wait: one must not be set again while it rings.
  std::optional<grpc::Alarm> alarm_;
};

// A stream that never reads. It has a connection of its own, so that what it leaves unread can hold
// up nobody on this side.
class UnreadStream : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  UnreadStream(const std::shared_ptr<grpc::Channel>& channel, v1::GenerateRequest request)
      : stub_(v1::Inference::NewStub(channel)), request_(std::move(request)) {
    stub_->async()->Generate(&context_, &request_, this);
    AddHold();
    StartCall();
  }
  ~UnreadStream() override {
    context_.TryCancel();
    RemoveHold();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_; });
  }
  UnreadStream(const UnreadStream&) = delete;
  UnreadStream& operator=(const UnreadStream&) = delete;

  void OnDone(const grpc::Status&) override {
    const std::lock_guard lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }

 private:
  std::unique_ptr<v1::Inference::Stub> stub_;
  v1::GenerateRequest request_;
  grpc::ClientContext context_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
};

}  // namespace conclave::loadtest
