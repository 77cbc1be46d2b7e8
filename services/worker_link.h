#pragma once
// The router's side of one worker: one stream that carries all its sequences. What is asked of the
// worker while a message is on its way goes together in the next one; what it answers is handed to
// each sequence's sink at once, so reading never waits for a client. A lost stream is opened again
// after a growing pause.
//
// Threads: every method from any thread; none blocks but Shutdown. Sinks are called on a gRPC
// thread, one at a time per link, with no lock of the link held.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "conclave/v1/worker.pb.h"
#include "scheduler/types.h"
#include "services/channel.h"
#include "services/credentials.h"

namespace conclave::services {

// Where the news of one sequence goes.
class SequenceSink {
 public:
  virtual ~SequenceSink() = default;
  // In order; the last one has an end. Must not block.
  virtual void OnEvent(const v1::SequenceEvent& event) = 0;
  // The stream broke; no event follows.
  virtual void OnLost(const absl::Status& status) = 0;
};

class WorkerLink {
 public:
  using Micros = scheduler::Micros;

  struct Options {
    std::string address;  // HOST:PORT
    int64_t message_bytes = int64_t{1}
                            << 20;  // of submits in one message, unless one alone is larger
    Micros backoff_min =
        std::chrono::milliseconds(100);  // before a lost stream is opened again, doubling to
    Micros backoff_max = std::chrono::seconds(2);
    Micros late_tick =
        std::chrono::milliseconds(250);  // what is more between two is nobody's silence
    ChannelOptions channel;
  };

  // on_change: called when the link comes up or goes down, when the worker begins to drain, and
  // when it takes sequences again after there was no credit left; with no lock held.
  WorkerLink(const Options& options, const Credentials& credentials,
             std::function<void()> on_change);
  ~WorkerLink();  // Shutdown
  WorkerLink(const WorkerLink&) = delete;
  WorkerLink& operator=(const WorkerLink&) = delete;

  // Closes the stream for good and waits until no reaction of it runs. Sinks that are left are
  // dropped without a word. Blocks; never from a reaction.
  void Shutdown();

  const std::string& address() const;
  // For the log: its id, once it has said it, and its address.
  std::string name() const;

  // Opens the stream when it is closed and its time has come. To be called again and again.
  void Tick(Micros now);

  // What the worker said when the stream opened; nothing while there is none.
  std::optional<v1::WorkerHello> hello() const;
  v1::WorkerLoad load() const;  // as last heard
  bool draining() const;        // it said so, or refused a sequence because of it
  // A draining worker takes what this router has already admitted until it was told that nothing is
  // left, or has refused a sequence.
  bool takes_leftovers() const;
  // Tells a draining worker how many admitted requests have nowhere else to go; 0 is the last word.
  void AnswerDrain(size_t still_waiting);
  // Nothing was heard for this long, by the time of the last Tick; 0 without a stream. While Tick
  // was not called this process heard nobody, which says nothing of the worker.
  Micros silence() const;
  // The worker has promised to say something every so often: a longer silence means something.
  bool pulses() const;
  // How many sequences it will take that have not been given to a worker before; nothing if it does
  // not say, or drains: then it is asked.
  std::optional<uint64_t> credit() const;
  // It keeps the sequence of this name for whoever takes it over.
  bool keeps(const std::string& request_id) const;
  // Gives the stream up: its sinks hear OnLost.
  void Break();

  // Starts a sequence; its number on this link, or nothing if the link is down or credit() says no.
  // `submit` needs no sequence number.
  std::optional<uint64_t> Open(v1::Submit submit, std::shared_ptr<SequenceSink> sink);
  // Ends a sequence; its sink hears nothing more, except what is being delivered right now. Unknown
  // numbers are ignored.
  void Close(uint64_t sequence);
  void SetPaused(uint64_t sequence, bool paused);

  // As long as there is one, what is asked of the worker waits for it to end, and then goes
  // together. For several on one thread, not for waiting in between. The link outlives it.
  class Batch {
   public:
    explicit Batch(WorkerLink& link);
    ~Batch();
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

   private:
    WorkerLink& link_;
  };

  struct Stats {
    uint64_t messages_out = 0;
    uint64_t messages_in = 0;
    uint64_t streams = 0;  // opened since the start
    size_t sequences = 0;
    std::optional<uint64_t> credit;
  };
  Stats stats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace conclave::services
