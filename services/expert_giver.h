#pragma once
// Gives experts that are at hand to workers whose checkpoints lack them (Worker.FetchExpert): first
// size and SHA-256, then the bytes, in runs. What takes long, converting an expert and the digest
// of one that nobody asked for before, is a thread's own; gRPC's threads copy a run at a time.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "conclave/v1/worker.grpc.pb.h"
#include "services/authorize.h"
#include "services/failpoint.h"
#include "services/work_pool.h"
#include "worker/engine.h"

namespace conclave::services {

class ExpertGiver {
 public:
  struct Options {
    int32_t max_fetches = 8;         // at once; who asks for one more is told to ask again
    size_t chunk_bytes = 256 << 10;  // of a message
    // A call that has no deadline, or a later one, is refused: who does not read must not keep a
    // place for ever.
    std::chrono::milliseconds longest{120'000};
  };

  // Engine and failpoints outlive it; it outlives its server.
  ExpertGiver(const Options& options, worker::Engine& engine, Authorize authorize,
              const Failpoints& failpoints);
  ~ExpertGiver();

  // The RPC. Any thread.
  grpc::ServerWriteReactor<v1::ExpertChunk>* Give(grpc::CallbackServerContext* context,
                                                  const v1::FetchExpertRequest* request);

  struct Stats {
    uint64_t given = 0;  // experts, whole
    uint64_t bytes = 0;
    uint64_t refused = 0;
  };
  Stats stats() const { return {given_.load(), bytes_.load(), refused_.load()}; }

 private:
  class Giving;

  absl::Status Check(const grpc::CallbackServerContext& context,
                     const v1::FetchExpertRequest& request) const;
  absl::Status TakePlace();
  void LeavePlace();

  const Options options_;
  worker::Engine& engine_;
  const Authorize authorize_;
  const Failpoints& failpoints_;
  std::atomic<uint64_t> given_{0}, bytes_{0}, refused_{0};

  std::mutex mutex_;  // guards what follows
  std::condition_variable left_;
  int32_t fetches_ = 0;

  WorkPool pool_;  // last: its thread ends first
};

}  // namespace conclave::services
