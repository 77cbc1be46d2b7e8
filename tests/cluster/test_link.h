#pragma once
// A router's end of a worker's stream, as bare as can be: sends what it is told and remembers what
// comes. For stories about a worker alone.

#include <grpcpp/client_context.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "conclave/v1/worker.grpc.pb.h"

namespace conclave::services::testing {

class TestLink {
 public:
  // Connects; with `reads` false it reads nothing before StartReading, as a router that hangs
  // would.
  explicit TestLink(const std::string& address, bool reads = true);
  ~TestLink();  // breaks off
  void StartReading();

  v1::WorkerHello Hello();  // waits for it
  bool Send(const v1::ToWorker& message);
  bool Submit(const v1::Submit& submit);
  bool Cancel(uint64_t sequence);

  // All events of a sequence put together.
  struct Sequence {
    std::vector<uint32_t> tokens;
    std::vector<float> logprobs;
    int prompt_logprobs = 0;
    int messages = 0;
    std::string routing_slots;
    v1::End end;  // reason unspecified: not ended (the stream did)
  };
  // Waits until the sequence ended or the stream did.
  Sequence WaitForEnd(uint64_t sequence);
  // Waits until that many tokens came, the sequence ended or the stream did.
  Sequence WaitForTokens(uint64_t sequence, size_t tokens);
  // Waits until a message told that load, or the stream ended; false then.
  bool WaitForDraining();
  // How many sequences it may submit, all counted; waits until there are so many, or the stream
  // ended.
  uint64_t WaitForGrant(uint64_t at_least);
  // Says that nothing more comes.
  void LeaveWithoutReading() { stream_->WritesDone(); }
  // The same, and waits for the stream's status.
  grpc::Status Close();
  // Waits for the stream's status, whoever ends it. The link reads.
  grpc::Status WaitForStatus();

 private:
  void Read();
  template <typename Done>
  Sequence WaitFor(uint64_t sequence, Done done);

  std::unique_ptr<v1::Worker::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ToWorker, v1::FromWorker>> stream_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::unique_ptr<v1::WorkerHello> hello_;
  std::map<uint64_t, Sequence> sequences_;
  uint64_t granted_ = 0;
  bool draining_ = false;
  bool over_ = false;
  std::thread reader_;
};

// A prompt of `prompt_tokens` tokens, greedy.
v1::Submit MakeSubmit(uint64_t sequence, uint32_t prompt_tokens, uint32_t max_tokens);

}  // namespace conclave::services::testing
