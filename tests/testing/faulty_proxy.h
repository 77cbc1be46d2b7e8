#pragma once
// A TCP proxy that damages what passes through it: late, slow, corrupt, cut off, reset, swallowed
// or out of order, each way by itself. Every fault counts what it did, so that a test can tell that
// it happened. For tests; a thread of its own, every method from any thread.

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace conclave::testing {

class FaultyProxy {
 public:
  enum class Way { kThere, kBack };  // from who connects to the target, and the reverse

  struct Faults {
    std::chrono::milliseconds delay{0};  // of everything
    uint64_t bytes_per_second = 0;       // 0: as fast as it goes
    double corrupt = 0.0;                // of every byte, that one of its bits is flipped
    bool blackhole = false;              // taken, and never handed on; an end neither
  };

  // Where in a stream to the target its units (a greeting, a frame) end: the size of the unit that
  // begins with these bytes, of a connection that had `before` units; 0: it takes more to tell.
  using UnitSize = std::function<size_t(uint64_t before, std::span<const std::byte> bytes)>;

  // Who connects, by the first unit of its stream.
  using ClientOf = std::function<std::string(std::span<const std::byte> unit)>;

  // target: "127.0.0.1:PORT". Without unit_size nothing can be reordered, without client_of all
  // clients are one. Both are called on the proxy's thread.
  explicit FaultyProxy(const std::string& target, uint64_t seed = 1, UnitSize unit_size = nullptr,
                       ClientOf client_of = nullptr);
  ~FaultyProxy();

  const std::string& address() const { return address_; }

  // Of every connection, those with faults of their own included.
  void Set(Way way, const Faults& faults);
  // Of this client's connections, whatever those of the others are.
  void SetOf(const std::string& client, Way way, const Faults& faults);
  // Every connection that passes data this way is cut off after so many bytes more, once.
  void Truncate(Way way, size_t after_bytes);
  // The next two whole units to the target change places, but never the first of a connection,
  // once.
  void Reorder();
  // Ends all connections with RST.
  void Reset();

  struct Counts {
    std::atomic<uint64_t> connections{0};
    std::atomic<uint64_t> passed{0};     // bytes
    std::atomic<uint64_t> delayed{0};    // pieces that waited
    std::atomic<uint64_t> throttled{0};  // pieces that waited for their turn
    std::atomic<uint64_t> corrupted{0};  // bytes
    std::atomic<uint64_t> truncated{0};  // connections
    std::atomic<uint64_t> swallowed{0};  // bytes
    std::atomic<uint64_t> reordered{0};  // pairs of units
    std::atomic<uint64_t> resets{0};     // connections
  };
  const Counts& counts() const { return counts_; }

 private:
  class Pump;
  struct Pair;

  void Accept();
  Faults FaultsOf(const std::string& client, Way way) const;

  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor acceptor_;
  boost::asio::ip::tcp::endpoint target_;
  std::string address_;
  const UnitSize unit_size_;
  const ClientOf client_of_;
  Counts counts_;
  std::mt19937_64 random_;  // the proxy's thread, as the pairs
  std::vector<std::weak_ptr<Pair>> pairs_;
  std::atomic<int64_t> truncate_[2] = {-1, -1};  // bytes; -1: do not
  std::atomic<bool> reorder_{false};

  mutable std::mutex mutex_;  // guards what follows
  Faults faults_[2];
  std::map<std::string, Faults> faults_of_[2];  // by client
  std::thread thread_;
};

}  // namespace conclave::testing
