#pragma once
// Two workers' transports that know each other, and sinks that remember what they were told.

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "services/exchange/peer_transport.h"
#include "tests/testing/wait_for.h"
#include "worker/experts/frame.h"

namespace conclave::services {

using testing::WaitFor;

inline constexpr worker::FrameLimits kTestLimits = {.type = worker::DType::kBF16,
                                                    .layers = 3,
                                                    .experts = 24,
                                                    .dim = 64,
                                                    .rows = 512,
                                                    .routes = 1024};

// Counts, and keeps the bodies' first bytes; answers, if it is told how.
class RecordingSink final : public worker::FrameSink {
 public:
  struct Heard {
    worker::PeerIndex from;
    worker::FrameHeader header;
    std::vector<std::byte> body;
  };
  using OnHeard =
      std::function<void(worker::PeerIndex, const worker::FrameHeader&, const worker::FrameBody&)>;

  explicit RecordingSink(OnHeard on_heard = nullptr) : on_heard_(std::move(on_heard)) {}

  void OnFrame(worker::PeerIndex from, const worker::FrameHeader& header,
               worker::FrameBody body) override {
    if (on_heard_) on_heard_(from, header, body);
    const std::lock_guard lock(mutex_);
    heard_.push_back({from, header, {body.bytes().begin(), body.bytes().end()}});
    if (keep_) kept_.push_back(std::move(body));
  }
  void OnDown(worker::PeerIndex) override { ++downs_; }
  void OnUp(worker::PeerIndex) override { ++ups_; }

  std::vector<Heard> heard() const {
    const std::lock_guard lock(mutex_);
    return heard_;
  }
  size_t count() const {
    const std::lock_guard lock(mutex_);
    return heard_.size();
  }
  int ups() const { return ups_; }
  int downs() const { return downs_; }
  // Bodies are not given back until it is called with false.
  void Keep(bool keep) {
    std::vector<worker::FrameBody> kept;
    const std::lock_guard lock(mutex_);
    keep_ = keep;
    if (!keep) kept.swap(kept_);
  }

 private:
  const OnHeard on_heard_;
  std::atomic<int> ups_{0}, downs_{0};
  mutable std::mutex mutex_;
  std::vector<Heard> heard_;
  bool keep_ = false;
  std::vector<worker::FrameBody> kept_;
};

// No other test process on this machine has the same.
inline uint64_t FreshIncarnation() {
  static std::atomic<uint64_t> count{0};
  return (static_cast<uint64_t>(getpid()) << 20) + ++count;
}

inline PeerTransport::Options TestOptions(const std::string& id, Carrier carrier) {
  return {.id = id,
          .incarnation = FreshIncarnation(),
          .numerics = "cpu/test",
          .limits = kTestLimits,
          .carrier = carrier,
          .alive_every = std::chrono::milliseconds(20),
          .silence = std::chrono::seconds(30),
          .backoff_min = std::chrono::milliseconds(1),
          .backoff_max = std::chrono::milliseconds(20)};
}

// What a transport tells of refusals.
class Refusals {
 public:
  // Of which `options`' transport tells; this one outlives it.
  void Hear(PeerTransport::Options& options) {
    options.on_refusal = [this](bool, const std::string& what) {
      const std::lock_guard lock(mutex_);
      told_.push_back(what);
    };
  }
  std::vector<std::string> told() const {
    const std::lock_guard lock(mutex_);
    return told_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> told_;
};

struct Side {
  explicit Side(const PeerTransport::Options& chosen, RecordingSink::OnHeard on_heard = nullptr)
      : options(chosen), sink(std::move(on_heard)) {
    auto made = PeerTransport::Listen(options);
    EXPECT_TRUE(made.ok()) << made.status();
    transport = *std::move(made);
    transport->Start(&sink);
  }
  // As others know it; at another address, if one is given.
  worker::Peer AsPeer(const std::string& at = "") const {
    return {.id = options.id,
            .incarnation = options.incarnation,
            .address = at.empty() ? transport->address() : at};
  }
  // Frees what a test ends with before the sink goes.
  ~Side() { transport->Stop(); }

  PeerTransport::Options options;
  RecordingSink sink;
  std::unique_ptr<PeerTransport> transport;
};

// A frame of `rows` rows, one route each, filled with `fill`; whether it was sent.
inline bool SendRows(PeerTransport& transport, worker::PeerIndex to, uint64_t request,
                     uint32_t rows = 4, std::byte fill = std::byte{7}) {
  worker::FrameHeader header = {.type = kTestLimits.type,
                                .layer = 1,
                                .epoch = 5,
                                .request = request,
                                .rows = rows,
                                .routes = rows,
                                .dim = kTestLimits.dim};
  auto body = transport.Reserve(to, worker::BodyBytes(header));
  if (!body.has_value()) return false;
  std::memset(body->bytes().data(), static_cast<int>(fill), body->bytes().size());
  const auto routes = worker::MutableRoutesOf(header, body->bytes());
  for (uint32_t i = 0; i < rows; ++i) routes[i] = {i, i % kTestLimits.experts};
  return transport.Send(to, header, *std::move(body));
}

inline bool IsUp(const Side& side, worker::PeerIndex peer) { return side.transport->up(peer); }

}  // namespace conclave::services
