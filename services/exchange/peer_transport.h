#pragma once
// What carries frames between worker processes: Asio's TCP, or a ring of shared memory where both
// are on one machine. For every peer one connection in each direction, made by who sends. A peer is
// up while both are there; when one ends the other is ended too and both are made anew, so that
// nothing of before is heard after.
//
// Only peers that were named by Connect are heard, and only as the process they were named as.
// Whoever is silent for too long, or sends what is no frame, is disconnected; all of it is counted.
//
// Shared memory needs no connection by TCP beside it: a Unix socket hands the ring over, wakes who
// sleeps, and ends with its process, so headers lie in the ring before their bodies, in order.
//
// Threads: one of its own, which runs every callback of the sink, but that Poll may.

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/address.h"
#include "services/exchange/greeting.h"
#include "services/exchange/hello.h"
#include "services/exchange/link.h"
#include "services/exchange/refusal_log.h"
#include "services/exchange/ring_ends.h"
#include "services/exchange/tcp_ends.h"
#include "worker/experts/transport.h"

namespace conclave::services {

enum class Carrier : uint8_t { kAuto, kTcp, kSharedMemory };
// INVALID_ARGUMENT unless it is auto, tcp or shm.
absl::StatusOr<Carrier> ParseCarrier(const std::string& text);
// As the flag has it.
std::string_view NameOf(Carrier carrier);
// Whether rows can go between the two: by what both send and take, where they reach each other.
bool GoTogether(Carrier one, Carrier other);

class PeerTransport final : public worker::Transport {
 public:
  struct Options {
    std::string id;            // of this worker
    uint64_t incarnation = 0;  // and of this process
    std::string numerics;      // peers have the same
    worker::FrameLimits limits;
    Carrier carrier = Carrier::kAuto;
    Address listen{.host = "127.0.0.1", .port = 0};
    // Whether who connects from this address may; null: whoever comes from this machine.
    std::function<absl::Status(const std::string& address, bool loopback)> authorize;
    // Told in words who is refused, or refuses this process, and why, once for each until it is
    // welcome; `passing`: it is likely to mend itself. On the transport's thread; null: nobody.
    std::function<void(bool passing, const std::string& what)> on_refusal;

    int32_t max_peers = 256;          // not forgotten
    int32_t max_guests = 64;          // connections that have not yet said who they are
    size_t max_refusals_told = 1024;  // of different peers and reasons; the rest is only counted
    int32_t unanswered_told = 10;     // attempts that a peer leaves unanswered, before it is told
    TcpSendingEnd::Limits send;
    size_t receive_bytes = 64 << 20;  // of one peer's bodies that are not given back
    uint32_t ring_slots = 256;
    uint64_t max_ring_bytes = 1 << 30;  // of one direction; what a few frames need is taken

    std::chrono::milliseconds alive_every{250};  // that peers hear of us, if only that we live
    std::chrono::milliseconds silence{2000};     // of a peer, then it is disconnected
    std::chrono::milliseconds hello_timeout{2000};
    std::chrono::milliseconds backoff_min{10};  // between attempts to connect
    std::chrono::milliseconds backoff_max{1000};
  };

  // Listens, but hears nobody before Start. INVALID_ARGUMENT, UNAVAILABLE (the address), or
  // ALREADY_EXISTS (another process is this one).
  static absl::StatusOr<std::unique_ptr<PeerTransport>> Listen(const Options& options);
  ~PeerTransport() override;

  // HOST:PORT of its TCP.
  const std::string& address() const { return address_; }

  void Start(worker::FrameSink* sink) override;
  void Stop() override;
  worker::PeerIndex Connect(const worker::Peer& peer) override;
  void Forget(worker::PeerIndex peer) override;
  bool up(worker::PeerIndex peer) const override;
  // 0: what is sent to it goes through a ring; 1: through a socket.
  int32_t distance(worker::PeerIndex peer) const override;
  std::optional<worker::FrameBody> Reserve(worker::PeerIndex to, size_t size) override;
  bool Send(worker::PeerIndex to, worker::FrameHeader header, worker::FrameBody body) override;
  bool Poll() override;
  void BeginPolling() override;
  void EndPolling() override;
  Stats stats() const override;

  // What is beyond the seam's: of connections that were up or nearly so, by why they ended, and of
  // hellos, by what was said to them.
  struct Counts {
    std::array<uint64_t, kLosses> losses{};
    std::array<uint64_t, kVerdicts> heard{};     // of guests
    std::array<uint64_t, kVerdicts> received{};  // verdicts on ourselves
    uint64_t unanswered = 0;                     // attempts that nobody answered
    uint64_t guests_gone = 0;     // closed, or silent for too long, before a hello was heard whole
    uint64_t guests_refused = 0;  // too many at once, or not authorised
    uint64_t rings = 0;           // directions that were made of shared memory
  };
  Counts counts() const;

 private:
  struct Other;

  explicit PeerTransport(const Options& options);
  absl::Status Bind();
  absl::Status BindTcp();
  absl::Status BindUnix();
  std::shared_ptr<Other> Find(worker::PeerIndex peer) const;
  std::shared_ptr<Other> Find(const std::string& id, uint64_t incarnation) const;
  std::shared_ptr<SendingEnd> LinkTo(worker::PeerIndex peer) const;
  template <typename Count>
  void Add(Count count);

  // The transport's thread.
  void AcceptTcp();
  void AcceptUnix();
  bool MayConnect(const boost::asio::ip::address& from) const;
  void Receive(Stream stream, const std::string& from, bool by_ring);
  void Greeted(const Hello& hello, Verdict verdict, const std::string& from, bool by_ring);
  Verdict Judge(const Hello& hello, bool by_ring) const;
  void Admit(Other& other, Stream stream, std::shared_ptr<RingReceiver> ring);
  void Reach(Other& other);
  void DialTcp(Other& other);
  bool DialRing(Other& other);
  void Answered(Other& other, std::optional<Verdict> verdict, Stream stream,
                std::shared_ptr<RingSender> ring);
  void RetryLater(Other& other);
  void MaybeUp(Other& other);
  void TearDown(Other& other, Loss loss);
  void CloseAll(Other& other);
  void Tick();
  void ListRings();
  Hello HelloTo(const worker::Peer& peer) const;
  worker::FrameHeader BlankTo(const Other& other) const;

  const Options options_;
  const Hello self_;
  const uint64_t arena_;  // of a ring
  std::string address_;
  LinkCounters counters_;
  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor tcp_;
  boost::asio::local::stream_protocol::acceptor unix_;
  boost::asio::steady_timer tick_;
  boost::asio::steady_timer accept_again_;
  std::vector<std::pair<std::shared_ptr<Guest>, int>> guests_;  // and the ticks they have waited
  RefusalLog refusals_;
  worker::FrameSink* sink_ = nullptr;
  std::thread thread_;

  using Rings = std::vector<std::shared_ptr<RingReceivingEnd>>;
  mutable std::mutex mutex_;  // guards what follows
  std::vector<std::shared_ptr<Other>> others_;
  std::shared_ptr<const Rings> rings_;  // that are up
  uint64_t connects_ = 0;
  Counts counts_;
};

}  // namespace conclave::services
