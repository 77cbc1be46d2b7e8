// conclave-exchange-bench [PAIRS [ROUND_TRIPS]]: how long rows take to another process and back
// through the exchange's transports, beside a bare ping-pong of the same bytes with the same way to
// wait at both ends. The other process's expert is the identity: it copies rows.
//
// Samples of the two alternate, so that whatever else the machine does meets both alike. Prints one
// line per carrier and way to wait: medians, and the ratio's median with its 95 % interval.

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/check.h"
#include "services/exchange/bench/bare.h"
#include "services/exchange/peer_transport.h"

namespace conclave::services::bench {
namespace {

using worker::FrameBody;
using worker::FrameHeader;
using worker::FrameKind;
using worker::PeerIndex;
using Clock = std::chrono::steady_clock;

constexpr uint32_t kRows = 16, kDim = 2048;
constexpr worker::FrameLimits kLimits = {.type = worker::DType::kBF16,
                                         .layers = 1,
                                         .experts = 1,
                                         .dim = kDim,
                                         .rows = kRows,
                                         .routes = kRows};
constexpr int kWarmUp = 50;

FrameHeader Header(FrameKind kind) {
  return {.kind = kind, .type = kLimits.type, .rows = kRows, .routes = kRows, .dim = kDim};
}

// One end of the exchange between the two processes.
class End final : public worker::FrameSink {
 public:
  End(const std::string& id, uint64_t incarnation, Carrier carrier) {
    auto made = PeerTransport::Listen({.id = id,
                                       .incarnation = incarnation,
                                       .numerics = "bench",
                                       .limits = kLimits,
                                       .carrier = carrier});
    CONCLAVE_CHECK(made.ok());
    transport_ = *std::move(made);
    transport_->Start(this);
  }
  ~End() override { transport_->Stop(); }

  PeerTransport& transport() { return *transport_; }
  void Connect(const worker::Peer& peer) {
    peer_ = transport_->Connect(peer);
    while (!transport_->up(peer_)) usleep(1000);
  }

  void OnFrame(PeerIndex from, const FrameHeader& header, FrameBody body) override {
    if (header.kind == FrameKind::kRows) {
      Answer(from, header, body);
      answered_.fetch_add(1);
      return;
    }
    // As the home copies results to where gate order wants them.
    std::memcpy(results_.data(), body.bytes().data(), body.bytes().size());
    heard_.fetch_add(1);
    heard_.notify_one();
  }
  void OnDown(PeerIndex) override {}
  void OnUp(PeerIndex) override {}

  // Rows out, results back.
  void RoundTrip(std::span<const std::byte> rows, Wait wait) {
    const uint32_t before = heard_.load();
    const FrameHeader header = Header(FrameKind::kRows);
    auto body = transport_->Reserve(peer_, worker::BodyBytes(header));
    CONCLAVE_CHECK(body.has_value());
    for (uint32_t i = 0; i < kRows; ++i) worker::MutableRoutesOf(header, body->bytes())[i] = {i, 0};
    std::memcpy(worker::MutableRowsOf(header, body->bytes()).data(), rows.data(), rows.size());
    CONCLAVE_CHECK(transport_->Send(peer_, header, *std::move(body)));
    if (wait == Wait::kSpin) {
      while (heard_.load() == before) transport_->Poll();
    } else {
      heard_.wait(before);
    }
  }
  uint32_t answered() const { return answered_; }

 private:
  void Answer(PeerIndex to, const FrameHeader& question, const FrameBody& rows) {
    FrameHeader header = Header(FrameKind::kResults);
    header.request = question.request;
    auto body = transport_->Reserve(to, worker::BodyBytes(header));
    CONCLAVE_CHECK(body.has_value());
    const auto from = worker::RowsOf(question, rows.bytes());
    std::memcpy(body->bytes().data(), from.data(), from.size());
    CONCLAVE_CHECK(transport_->Send(to, header, *std::move(body)));
  }

  std::unique_ptr<PeerTransport> transport_;
  PeerIndex peer_ = -1;
  std::atomic<uint32_t> heard_{0};
  std::atomic<uint32_t> answered_{0};
  std::vector<std::byte> results_ = std::vector<std::byte>(size_t{kRows} * kDim * 2);
};

enum class What : uint32_t { kBareTcp, kBareMemory, kTcp, kMemory, kEnd };
struct Order {
  What what;
  Wait wait;
  int32_t trips;
};

// Between the two processes: addresses, orders, and that they were carried out.
class Wire {
 public:
  explicit Wire(int fd) : fd_(fd) {}
  template <typename T>
  void Tell(const T& value) {
    CONCLAVE_CHECK(send(fd_, &value, sizeof value, MSG_NOSIGNAL) == sizeof value);
  }
  template <typename T>
  T Hear() {
    T value;
    if (recv(fd_, &value, sizeof value, MSG_WAITALL) != sizeof value) std::exit(1);
    return value;
  }

 private:
  const int fd_;
};

struct Bench {
  Bench(bool home, Wire& wire, uint64_t incarnation, BareTcp& tcp, BareMemory& memory)
      : is_home(home),
        control(wire),
        bare_tcp(tcp),
        bare_memory(memory),
        by_tcp(home ? "home-tcp" : "owner-tcp", incarnation, Carrier::kTcp),
        by_memory(home ? "home-shm" : "owner-shm", incarnation, Carrier::kSharedMemory) {
    for (End* end : {&by_tcp, &by_memory}) {
      char address[64] = {};
      std::snprintf(address, sizeof address, "%s", end->transport().address().c_str());
      control.Tell(address);
    }
    for (End* end : {&by_tcp, &by_memory}) {
      struct {
        char text[64];
      } address = control.Hear<decltype(address)>();
      const std::string carrier = end == &by_tcp ? "tcp" : "shm";
      end->Connect({.id = (home ? "owner-" : "home-") + carrier,
                    .incarnation = incarnation,
                    .address = address.text});
    }
    rows.assign(size_t{kRows} * kDim * 2, std::byte{1});
    // Header, routes and rows one way; header and rows back.
    FrameHeader header = Header(FrameKind::kRows);
    question.resize(worker::kFrameHeaderBytes + worker::BodyBytes(header));
    answer.resize(worker::kFrameHeaderBytes + rows.size());
  }

  const bool is_home;
  Wire& control;
  BareTcp& bare_tcp;
  BareMemory& bare_memory;
  End by_tcp, by_memory;
  std::vector<std::byte> rows, question, answer;
};

template <typename Bare>
void ServeBare(Bench& bench, Bare& bare, const Order& order) {
  for (int i = 0; i < order.trips; ++i) {
    bare.Receive(bench.question, order.wait);
    bare.Send(bench.answer);
  }
}

void Serve(End& end, const Order& order, uint32_t before) {
  if (order.wait == Wait::kSleep) return;  // its transport's thread does
  end.transport().BeginPolling();
  while (end.answered() - before < static_cast<uint32_t>(order.trips)) end.transport().Poll();
  end.transport().EndPolling();
}

void RunOwner(Bench& bench) {
  while (true) {
    const Order order = bench.control.Hear<Order>();
    const uint32_t tcp = bench.by_tcp.answered(), memory = bench.by_memory.answered();
    bench.control.Tell(order);  // begin
    switch (order.what) {
      case What::kBareTcp:
        ServeBare(bench, bench.bare_tcp, order);
        break;
      case What::kBareMemory:
        ServeBare(bench, bench.bare_memory, order);
        break;
      case What::kTcp:
        Serve(bench.by_tcp, order, tcp);
        break;
      case What::kMemory:
        Serve(bench.by_memory, order, memory);
        break;
      case What::kEnd:
        return;
    }
  }
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// The median round trip, in microseconds.
double Measure(Bench& bench, What what, Wait wait, int trips) {
  const Order order{what, wait, trips + kWarmUp};
  bench.control.Tell(order);
  bench.control.Hear<Order>();
  const auto bare = [&](auto& carrier) {
    carrier.Send(bench.question);
    carrier.Receive(bench.answer, wait);
  };
  End& end = what == What::kTcp ? bench.by_tcp : bench.by_memory;
  const bool polls = wait == Wait::kSpin && (what == What::kTcp || what == What::kMemory);
  if (polls) end.transport().BeginPolling();
  std::vector<double> times;
  for (int i = 0; i < order.trips; ++i) {
    const auto begin = Clock::now();
    if (what == What::kBareTcp) {
      bare(bench.bare_tcp);
    } else if (what == What::kBareMemory) {
      bare(bench.bare_memory);
    } else {
      end.RoundTrip(bench.rows, wait);
    }
    const std::chrono::duration<double, std::micro> took = Clock::now() - begin;
    if (i >= kWarmUp) times.push_back(took.count());
  }
  if (polls) end.transport().EndPolling();
  return Median(times);
}

// Of the median of so many: the ranks that enclose it with 95 %, from the binomial's normal limit.
size_t LowRank(size_t count) {
  const auto n = static_cast<double>(count);
  return static_cast<size_t>(std::max(0.0, std::floor((n - 1.96 * std::sqrt(n)) / 2)));
}

void Compare(Bench& bench, const char* name, What ours, What bare, Wait wait, int pairs,
             int trips) {
  std::vector<double> ours_us, bare_us, ratios;
  for (int i = 0; i < pairs; ++i) {
    // Who goes first alternates too.
    const double first = Measure(bench, i % 2 == 0 ? bare : ours, wait, trips);
    const double second = Measure(bench, i % 2 == 0 ? ours : bare, wait, trips);
    bare_us.push_back(i % 2 == 0 ? first : second);
    ours_us.push_back(i % 2 == 0 ? second : first);
    ratios.push_back(ours_us.back() / bare_us.back());
  }
  std::sort(ratios.begin(), ratios.end());
  const size_t low = LowRank(ratios.size());
  std::printf(
      "carrier=%s wait=%s pairs=%d bare_us=%.1f exchange_us=%.1f ratio=%.3f low=%.3f high=%.3f\n",
      name, wait == Wait::kSleep ? "sleep" : "spin", pairs, Median(bare_us), Median(ours_us),
      Median(ratios), ratios[low], ratios[ratios.size() - 1 - low]);
  std::fflush(stdout);
}

// Who spins has a core of its own, or else it waits for the other one's time slice to end.
void TakeCore(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(static_cast<size_t>(core), &cores);
  sched_setaffinity(0, sizeof cores, &cores);  // where there is only one, both share it
}

int Run(int pairs, int trips) {
  int ends[2];
  CONCLAVE_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  BareTcp tcp;
  BareMemory memory(2 * size_t{kRows} * kDim * 2);
  const auto incarnation = static_cast<uint64_t>(getpid());
  const pid_t owner = fork();
  CONCLAVE_CHECK(owner >= 0);
  Wire wire(ends[owner == 0 ? 1 : 0]);
  TakeCore(owner == 0 ? 1 : 0);
  if (owner == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    tcp.BeOwner();
    memory.BeOwner();
    Bench bench(/*home=*/false, wire, incarnation, tcp, memory);
    RunOwner(bench);
    return 0;
  }
  tcp.BeHome();
  memory.BeHome();
  {
    Bench bench(/*home=*/true, wire, incarnation, tcp, memory);
    Compare(bench, "tcp", What::kTcp, What::kBareTcp, Wait::kSleep, pairs, trips);
    Compare(bench, "shm", What::kMemory, What::kBareMemory, Wait::kSpin, pairs, trips);
    Compare(bench, "shm", What::kMemory, What::kBareMemory, Wait::kSleep, pairs, trips);
    wire.Tell(Order{What::kEnd, Wait::kSleep, 0});
  }
  int status = 0;
  waitpid(owner, &status, 0);
  return status == 0 ? 0 : 1;
}

}  // namespace
}  // namespace conclave::services::bench

int main(int argc, char** argv) {
  const int pairs = argc > 1 ? std::atoi(argv[1]) : 25;
  const int trips = argc > 2 ? std::atoi(argv[2]) : 300;
  if (pairs < 20 || trips < 1) {
    std::fprintf(stderr, "conclave-exchange-bench [PAIRS >= 20 [ROUND_TRIPS]]\n");
    return 2;
  }
  return conclave::services::bench::Run(pairs, trips);
}
