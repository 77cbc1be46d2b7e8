#pragma once
// A worker without a model: a real gRPC server that speaks worker.proto and samples tokens from a
// hash of (prompt, seed, index), behind what a sequence brings along. Good for testing routers: it
// counts what it is asked, steps only when told to if so wished, can refuse, drain and vanish.

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "conclave/v1/worker.grpc.pb.h"
#include "services/server.h"
#include "tests/router/tiny_tokenizer.h"

namespace conclave::testing {

class FakeWorker {
 public:
  struct Options {
    std::string id = "worker-1";
    std::string listen = "127.0.0.1:0";
    std::string model = "tiny";
    uint32_t context_limit = 4096;
    int running = 64;       // sequences stepped together
    bool manual = false;    // only Step() steps
    uint32_t pulse_ms = 0;  // promised, never kept
    // To each link, beside the hello; nothing: it grants nothing, as one of an older build.
    std::optional<uint64_t> granted;
    std::chrono::microseconds step_time{0};
    // Token i of a sequence; empty: a letter from a hash.
    std::function<uint32_t(const v1::Submit&, uint32_t)> token;
    // The slot, one of kSlots, that a token goes to in each of kMoeLayers layers, with weight 1;
    // empty: it has no gate.
    std::function<uint16_t(uint32_t)> gate;
    uint32_t report_tokens = 1 << 20;  // of a prompt, in a step, whose routing it reports
  };
  static constexpr uint32_t kMoeLayers = 2;
  static constexpr uint32_t kSlots = 4;

  struct Counts {
    uint64_t submits = 0;
    uint64_t ungranted = 0;  // of them, beyond what the link was granted; taken all the same
    uint64_t went_on = 0;    // of the submits, those that need no grant
    uint64_t cancels = 0;
    uint64_t pauses = 0;
    uint64_t resumes = 0;
    uint64_t tokens = 0;
    uint64_t messages = 0;  // received
    size_t live = 0;        // sequences now
    size_t paused = 0;      // of those
    size_t links = 0;
    std::optional<uint64_t> last_timeout_us;
    v1::Submit last_submit;
    uint64_t probes = 0;  // submits of which a router reads the routing itself
    v1::Submit last_probe;
  };

  explicit FakeWorker(const Options& options);
  FakeWorker() : FakeWorker(Options()) {}
  ~FakeWorker();

  std::string address() const;
  Counts counts() const;
  // Until the counts satisfy it, or half a minute has passed (false).
  bool WaitFor(const std::function<bool(const Counts&)>& condition) const;

  // One token for everybody who runs, at most `running` of them, first come first served.
  void Step();
  // Steps by itself from now on, or waits for Step again.
  void SetManual(bool manual);
  // Refuses new sequences with UNAVAILABLE and says so.
  void Drain();
  // Says so, and takes them all the same.
  void DrainTakingLeftovers();
  // Refuses new sequences because it has no room, or takes them again.
  void SetFull(bool full);
  // Lets every link submit so many more.
  void Grant(uint64_t more);
  // Says of other workers that they are late.
  void FindLate(std::vector<std::string> ids);
  // Says that its sequences wait for this expert; empty: for none.
  void Lack(std::string expert);
  // Ends all it has for want of that expert.
  void EndForWantOf(const std::string& expert);
  // Drops every link at once, as a crash does, and takes no new ones; Revive listens at the same
  // address again.
  void Crash();
  void Revive();

  // What the token function gives by default.
  static uint32_t HashedToken(const v1::Submit& submit, uint32_t index);

 private:
  class Service;
  class LinkReactor;

  void StartServer(const std::string& listen);
  void Run();

  Options options_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<services::Server> server_;
  std::string address_;
  std::thread thread_;
};

}  // namespace conclave::testing
