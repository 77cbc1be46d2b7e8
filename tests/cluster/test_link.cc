#include "tests/cluster/test_link.h"

#include "services/channel.h"

namespace conclave::services::testing {

TestLink::TestLink(const std::string& address, bool reads)
    : stub_(v1::Worker::NewStub(MakeChannel(address, Credentials()))),
      stream_(stub_->Serve(&context_)) {
  if (reads) StartReading();
}

TestLink::~TestLink() {
  context_.TryCancel();
  if (reader_.joinable()) reader_.join();
}

void TestLink::StartReading() {
  reader_ = std::thread([this] { Read(); });
}

void TestLink::Read() {
  v1::FromWorker message;
  while (stream_->Read(&message)) {
    const std::lock_guard lock(mutex_);
    if (message.has_hello()) hello_ = std::make_unique<v1::WorkerHello>(message.hello());
    if (message.has_granted()) granted_ = message.granted();
    if (message.has_load()) draining_ = message.load().draining();
    for (const v1::SequenceEvent& event : message.events()) {
      Sequence& sequence = sequences_[event.sequence()];
      sequence.tokens.insert(sequence.tokens.end(), event.tokens().begin(), event.tokens().end());
      for (const v1::TokenLogprob& logprob : event.logprobs())
        sequence.logprobs.push_back(logprob.logprob());
      sequence.prompt_logprobs += event.prompt_logprobs_size();
      sequence.routing_slots += event.routing().slots();
      ++sequence.messages;
      if (event.has_end()) sequence.end = event.end();
    }
    changed_.notify_all();
  }
  const std::lock_guard lock(mutex_);
  over_ = true;
  changed_.notify_all();
}

v1::WorkerHello TestLink::Hello() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return hello_ != nullptr || over_; });
  return hello_ == nullptr ? v1::WorkerHello() : *hello_;
}

bool TestLink::Send(const v1::ToWorker& message) { return stream_->Write(message); }

bool TestLink::Submit(const v1::Submit& submit) {
  v1::ToWorker message;
  *message.add_submit() = submit;
  return Send(message);
}

bool TestLink::Cancel(uint64_t sequence) {
  v1::ToWorker message;
  message.add_cancel(sequence);
  return Send(message);
}

template <typename Done>
TestLink::Sequence TestLink::WaitFor(uint64_t sequence, Done done) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    const Sequence& s = sequences_[sequence];
    return over_ || s.end.reason() != v1::End::REASON_UNSPECIFIED || done(s);
  });
  return sequences_[sequence];
}

TestLink::Sequence TestLink::WaitForEnd(uint64_t sequence) {
  return WaitFor(sequence, [](const Sequence&) { return false; });
}

TestLink::Sequence TestLink::WaitForTokens(uint64_t sequence, size_t tokens) {
  return WaitFor(sequence, [tokens](const Sequence& s) { return s.tokens.size() >= tokens; });
}

uint64_t TestLink::WaitForGrant(uint64_t at_least) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return granted_ >= at_least || over_; });
  return granted_;
}

bool TestLink::WaitForDraining() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return draining_ || over_; });
  return draining_;
}

grpc::Status TestLink::Close() {
  stream_->WritesDone();
  return WaitForStatus();
}

grpc::Status TestLink::WaitForStatus() {
  if (reader_.joinable()) reader_.join();
  return stream_->Finish();
}

v1::Submit MakeSubmit(uint64_t sequence, uint32_t prompt_tokens, uint32_t max_tokens) {
  v1::Submit submit;
  submit.set_sequence(sequence);
  for (uint32_t i = 0; i < prompt_tokens; ++i) submit.add_prompt((i * 7 + 1) % 256);
  submit.set_top_p(1.0f);
  submit.set_max_tokens(max_tokens);
  return submit;
}

}  // namespace conclave::services::testing
