#pragma once
// One router's stream, as its worker has it: shared by gRPC (until OnDone) and the engine (while it
// has sequences of it). For worker_service.cc and router_link.cc alone.
//
// Threads: what is public from any thread, but Start, once; the reactions are gRPC's.

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/credit_rule.h"
#include "services/worker_service.h"

namespace conclave::services {

// gRPC reacts to a write on its own threads, so starting one under mutex_ is safe.
class WorkerService::RouterLink : public grpc::ServerBidiReactor<v1::ToWorker, v1::FromWorker>,
                                  public worker::Link,
                                  public std::enable_shared_from_this<RouterLink> {
 public:
  RouterLink(WorkerService& service, grpc::CallbackServerContext& context)
      : service_(service),
        model_(service.engine_.model()),
        context_(context),
        peer_(context.peer()) {}

  void Start();

  // What the router said of sequences it still has for a draining worker. Under the service's
  // mutex_.
  std::optional<bool> more;

  // Engine thread.
  void OnStep(std::vector<worker::SequenceEvent> events) override { Enqueue(std::move(events)); }

  void SendLoad(const v1::WorkerLoad& load, const std::optional<v1::Orphans>& orphans);
  // The router may submit so many more.
  void Grant(int32_t share);
  // Cuts a stream whose router has left and has not read the last message in time.
  void CutIfLeft(std::chrono::steady_clock::time_point now);
  // Ends the stream well once everything is written.
  void CloseWhenWritten();
  size_t waiting_bytes();

 private:
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override { End(grpc::Status::CANCELLED); }
  // Last, when all reactions have returned: nothing can be submitted any more.
  void OnDone() override;

  void TakeMessage();
  absl::Status Submit(const v1::Submit& submit, scheduler::Micros now);
  absl::Status TakeCredit(const v1::Submit& submit);
  void Refuse(uint64_t sequence, const absl::Status& status);

  void Enqueue(std::vector<worker::SequenceEvent> events);
  // Writes what waits if the stream is free; cuts the stream if too much waits.
  void CutOrWrite(std::unique_lock<std::mutex> lock);
  // The engine adds to pending_ meanwhile: it never waits for a message to be made. While the lock
  // is not held the stream may end and the service with it.
  void Write(std::unique_lock<std::mutex> lock);
  // By who set writing_. A sequence's events of several steps become one.
  void FillMessage(const std::vector<worker::SequenceEvent>& events,
                   const std::optional<v1::WorkerLoad>& load);
  // Under mutex_. What fits a message.
  std::vector<worker::SequenceEvent> TakePending();
  // Under mutex_, maybe on the engine's thread, which must not be called back: gRPC's cancellation
  // tells the engine.
  void Cut(const char* why);
  // The router will say no more. What is being written is the last it is told.
  void Leave();
  // The stream is broken, or was cut. gRPC's threads.
  void End(const grpc::Status& status);
  // Under mutex_.
  void Discard();

  WorkerService& service_;  // lives until OnDone: to be used under mutex_ and unless finished_, or
                            // in a reaction
  const worker::Model& model_;            // the engine's, which outlives every link
  grpc::CallbackServerContext& context_;  // lives until OnDone
  const std::string peer_;
  v1::ToWorker incoming_;  // gRPC's while a read is in flight
  bool yielded_ = false;   // the router has said its last word to a draining worker; of the reader

  std::mutex mutex_;
  v1::FromWorker outgoing_;  // theirs who set writing_, then gRPC's
  std::deque<worker::SequenceEvent> pending_;
  size_t pending_bytes_ = 0;  // of pending_
  std::optional<v1::WorkerLoad> load_;
  std::optional<v1::Orphans> orphans_;  // never without load_
  scheduler::LinkCredit credit_;
  bool writing_ = true;  // a message is being made or written; at first the hello
  std::optional<std::chrono::steady_clock::time_point> left_;  // when the router said its last
  bool cut_ = false;       // cancelled for not reading; nothing is written any more
  bool closing_ = false;   // finish once nothing waits
  bool finished_ = false;  // Finish was called; no operation may follow
};

}  // namespace conclave::services
