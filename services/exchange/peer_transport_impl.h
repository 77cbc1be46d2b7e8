#pragma once
// What PeerTransport's two source files share.

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>

#include "services/exchange/peer_transport.h"

namespace conclave::services {

// Another worker's process.
struct PeerTransport::Other {
  Other(boost::asio::io_context& io, worker::Peer peer, worker::PeerIndex number)
      : who(std::move(peer)), index(number), retry(io) {}

  worker::Peer who;  // its address: the transport's mutex_
  const worker::PeerIndex index;
  std::mutex telling;  // held while the sink is told of it
  std::atomic<bool> up{false};
  std::atomic<bool> near{false};     // `out` is, or was last, a ring
  std::shared_ptr<SendingEnd> link;  // `out` while it is up; the transport's mutex_
  bool wanted = true;                // the transport's mutex_

  // The transport's thread.
  std::shared_ptr<Dial> dial;
  int dial_ticks = 0;
  int32_t unanswered = 0;  // attempts in a row
  std::shared_ptr<SendingEnd> out;
  std::shared_ptr<ReceivingEnd> in;
  std::shared_ptr<RingReceivingEnd> in_ring;  // `in`, if it is one
  boost::asio::steady_timer retry;
  bool waits = false;  // for `retry`
  std::chrono::milliseconds backoff{0};
};

template <typename Count>
void PeerTransport::Add(Count count) {
  const std::lock_guard lock(mutex_);
  count();
}

}  // namespace conclave::services
