#include "tests/testing/faulty_proxy.h"

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <deque>
#include <utility>

#include "scheduler/check.h"

namespace conclave::testing {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Bytes = std::vector<std::byte>;

constexpr size_t kPieceBytes = 16 << 10;
constexpr size_t kWaitingBytes = 1 << 20;  // then the sender has to wait

tcp::endpoint EndpointOf(const std::string& address) {
  const size_t colon = address.rfind(':');
  return {asio::ip::make_address(address.substr(0, colon)),
          static_cast<uint16_t>(std::stoul(address.substr(colon + 1)))};
}

}  // namespace

// The two sockets of one connection through the proxy.
struct FaultyProxy::Pair {
  explicit Pair(asio::io_context& io, tcp::socket accepted)
      : client(std::move(accepted)), server(io) {}
  tcp::socket client, server;
  std::string name;  // of the client; empty: not told yet, or never

  void Close() {
    error_code ignored;
    client.close(ignored);
    server.close(ignored);
  }
};

// One way of a connection.
class FaultyProxy::Pump : public std::enable_shared_from_this<Pump> {
 public:
  Pump(FaultyProxy& proxy, std::shared_ptr<Pair> pair, Way way)
      : proxy_(proxy),
        pair_(std::move(pair)),
        way_(way),
        from_(way == Way::kThere ? pair_->client : pair_->server),
        to_(way == Way::kThere ? pair_->server : pair_->client),
        timer_(proxy.io_) {}

  void Read() {
    from_.async_read_some(
        asio::buffer(piece_), [self = shared_from_this()](error_code error, size_t size) {
          if (error) return self->End();
          self->Take({self->piece_.begin(), self->piece_.begin() + static_cast<ptrdiff_t>(size)});
        });
  }

 private:
  struct Waiting {
    Bytes bytes;
    Clock::time_point due;
  };

  size_t index() const { return static_cast<size_t>(way_); }

  Faults faults() const { return proxy_.FaultsOf(pair_->name, way_); }

  void Take(Bytes bytes) {
    if (way_ == Way::kThere && proxy_.unit_size_ != nullptr) bytes = InUnits(std::move(bytes));
    const Faults faults = this->faults();
    if (faults.blackhole) {
      proxy_.counts_.swallowed += bytes.size();
      return Read();
    }
    Corrupt(faults, bytes);
    const bool last = Truncate(bytes);
    if (!bytes.empty()) Queue(faults, std::move(bytes));
    if (last) {
      cut_ = true;
      if (queue_.empty()) pair_->Close();
    } else if (waiting_bytes_ < kWaitingBytes) {
      Read();
    } else {
      paused_ = true;
    }
  }

  // Whole units alone are handed on, so that two of them can change places.
  Bytes InUnits(Bytes bytes) {
    partial_.insert(partial_.end(), bytes.begin(), bytes.end());
    Bytes out;
    while (!partial_.empty()) {
      const size_t size = proxy_.unit_size_(units_, partial_);
      if (size == 0 || size > partial_.size()) break;
      ++units_;
      const auto end = partial_.begin() + static_cast<ptrdiff_t>(size);
      Bytes unit(partial_.begin(), end);
      if (units_ == 1 && proxy_.client_of_ != nullptr) pair_->name = proxy_.client_of_(unit);
      partial_.erase(partial_.begin(), end);
      if (held_.empty() && units_ > 1 && proxy_.reorder_.exchange(false)) {
        held_ = std::move(unit);
        continue;
      }
      out.insert(out.end(), unit.begin(), unit.end());
      if (held_.empty()) continue;
      out.insert(out.end(), held_.begin(), held_.end());
      held_.clear();
      ++proxy_.counts_.reordered;
    }
    return out;
  }

  void Corrupt(const Faults& faults, Bytes& bytes) {
    if (faults.corrupt <= 0.0) return;
    std::geometric_distribution<size_t> gap(faults.corrupt);
    for (size_t at = gap(proxy_.random_); at < bytes.size(); at += 1 + gap(proxy_.random_)) {
      bytes[at] ^= std::byte{1} << (proxy_.random_() % 8);
      ++proxy_.counts_.corrupted;
    }
  }

  // Whether these bytes are the last.
  bool Truncate(Bytes& bytes) {
    const int64_t left = proxy_.truncate_[index()].load();
    if (left < 0) return false;
    if (static_cast<int64_t>(bytes.size()) < left) {
      proxy_.truncate_[index()] = left - static_cast<int64_t>(bytes.size());
      return false;
    }
    bytes.resize(static_cast<size_t>(left));
    proxy_.truncate_[index()] = -1;
    ++proxy_.counts_.truncated;
    return true;
  }

  void Queue(const Faults& faults, Bytes bytes) {
    const auto now = Clock::now();
    auto due = now + faults.delay;
    if (faults.delay.count() > 0) ++proxy_.counts_.delayed;
    if (faults.bytes_per_second > 0) {
      const std::chrono::duration<double> takes(static_cast<double>(bytes.size()) /
                                                static_cast<double>(faults.bytes_per_second));
      turn_ = std::max(turn_, now) + std::chrono::duration_cast<Clock::duration>(takes);
      due = std::max(due, turn_);
      ++proxy_.counts_.throttled;
    }
    waiting_bytes_ += bytes.size();
    queue_.push_back({std::move(bytes), due});
    if (queue_.size() == 1) Write();
  }

  void Write() {
    if (queue_.front().due <= Clock::now()) return WriteNow();
    timer_.expires_at(queue_.front().due);
    timer_.async_wait([self = shared_from_this()](error_code error) {
      if (!error) self->WriteNow();
    });
  }

  void WriteNow() {
    asio::async_write(to_, asio::buffer(queue_.front().bytes),
                      [self = shared_from_this()](error_code error, size_t size) {
                        if (error) return self->End();
                        self->Written(size);
                      });
  }

  void Written(size_t size) {
    proxy_.counts_.passed += size;
    waiting_bytes_ -= size;
    queue_.pop_front();
    if (!queue_.empty()) return Write();
    if (cut_ || ended_) return pair_->Close();
    if (std::exchange(paused_, false)) Read();
  }

  // What waits is still handed on.
  void End() {
    if (faults().blackhole) return;
    ended_ = true;
    if (queue_.empty()) pair_->Close();
  }

  FaultyProxy& proxy_;
  const std::shared_ptr<Pair> pair_;
  const Way way_;
  tcp::socket& from_;
  tcp::socket& to_;
  asio::steady_timer timer_;
  std::array<std::byte, kPieceBytes> piece_{};
  uint64_t units_ = 0;
  Bytes partial_;  // the beginning of a unit
  Bytes held_;     // a unit that lets another one pass
  std::deque<Waiting> queue_;
  size_t waiting_bytes_ = 0;
  bool paused_ = false, cut_ = false, ended_ = false;
  Clock::time_point turn_;
};

FaultyProxy::FaultyProxy(const std::string& target, uint64_t seed, UnitSize unit_size,
                         ClientOf client_of)
    : acceptor_(io_, tcp::endpoint(asio::ip::address_v4::loopback(), 0)),
      target_(EndpointOf(target)),
      address_("127.0.0.1:" + std::to_string(acceptor_.local_endpoint().port())),
      unit_size_(std::move(unit_size)),
      client_of_(std::move(client_of)),
      random_(seed) {
  Accept();
  thread_ = std::thread([this] { io_.run(); });
}

FaultyProxy::~FaultyProxy() {
  io_.stop();
  thread_.join();
}

void FaultyProxy::Accept() {
  acceptor_.async_accept([this](error_code error, tcp::socket accepted) {
    if (error) return;
    ++counts_.connections;
    const auto pair = std::make_shared<Pair>(io_, std::move(accepted));
    std::erase_if(pairs_, [](const auto& old) { return old.expired(); });
    pairs_.push_back(pair);
    pair->server.async_connect(target_, [this, pair](error_code refused) {
      if (refused) return pair->Close();
      error_code ignored;
      pair->client.set_option(tcp::no_delay(true), ignored);
      pair->server.set_option(tcp::no_delay(true), ignored);
      std::make_shared<Pump>(*this, pair, Way::kThere)->Read();
      std::make_shared<Pump>(*this, pair, Way::kBack)->Read();
    });
    Accept();
  });
}

FaultyProxy::Faults FaultyProxy::FaultsOf(const std::string& client, Way way) const {
  const std::lock_guard lock(mutex_);
  const auto& own = faults_of_[static_cast<size_t>(way)];
  const auto found = own.find(client);
  return found == own.end() ? faults_[static_cast<size_t>(way)] : found->second;
}

void FaultyProxy::Set(Way way, const Faults& faults) {
  const std::lock_guard lock(mutex_);
  faults_[static_cast<size_t>(way)] = faults;
  faults_of_[static_cast<size_t>(way)].clear();
}

void FaultyProxy::SetOf(const std::string& client, Way way, const Faults& faults) {
  const std::lock_guard lock(mutex_);
  faults_of_[static_cast<size_t>(way)][client] = faults;
}

void FaultyProxy::Truncate(Way way, size_t after_bytes) {
  truncate_[static_cast<size_t>(way)] = static_cast<int64_t>(after_bytes);
}

void FaultyProxy::Reorder() {
  CONCLAVE_CHECK(unit_size_ != nullptr);
  reorder_ = true;
}

void FaultyProxy::Reset() {
  asio::post(io_, [this] {
    for (const std::weak_ptr<Pair>& weak : pairs_) {
      const auto pair = weak.lock();
      if (pair == nullptr || !pair->client.is_open()) continue;
      error_code ignored;
      // Closing with no time to linger sends RST.
      pair->client.set_option(tcp::socket::linger(true, 0), ignored);
      pair->server.set_option(tcp::socket::linger(true, 0), ignored);
      pair->Close();
      ++counts_.resets;
    }
  });
}

}  // namespace conclave::testing
