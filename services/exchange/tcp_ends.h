#pragma once
// Frames over a stream socket: header and body behind each other, gathered from where they lie and
// read to where they stay.

#include <array>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "services/exchange/body_pool.h"
#include "services/exchange/link.h"

namespace conclave::services {

using Stream = boost::asio::generic::stream_protocol::socket;

class TcpSendingEnd final : public SendingEnd, public std::enable_shared_from_this<TcpSendingEnd> {
 public:
  struct Limits {
    size_t bytes = 64 << 20;  // of bodies that are reserved or not yet taken by the socket
    size_t frames = 1024;     // not yet taken by the socket
  };
  // blank: a header of a frame of this connection, from whom to whom. on_lost: once, on the
  // transport's thread. Counters outlive it.
  TcpSendingEnd(Stream stream, const Limits& limits, const worker::FrameHeader& blank,
                LinkCounters& counters, std::function<void(Loss)> on_lost);

  // Begins to listen for the other side's end.
  void Begin();

  std::optional<worker::FrameBody> Reserve(size_t size) override { return pool_->Take(size); }
  bool Send(worker::FrameHeader header, worker::FrameBody body) override;
  void SayAlive() override;
  void Close() override;

 private:
  struct Waiting {
    worker::FrameHeaderBytes header;
    worker::FrameBody body;
  };
  bool SendLocked(const worker::FrameHeader& header, worker::FrameBody body);
  void Write();  // mutex_ held
  std::optional<size_t> WriteSome();
  void Written(size_t bytes);
  void Lost();
  void AwaitEnd();

  const Limits limits_;
  const worker::FrameHeader blank_;
  LinkCounters& counters_;
  const std::shared_ptr<BodyPool> pool_;
  std::byte ignored_{};

  std::mutex mutex_;  // guards what follows
  Stream stream_;
  std::function<void(Loss)> on_lost_;
  bool open_ = true;
  uint64_t sequence_ = 0;
  uint64_t sequence_when_asked_ = 0;
  std::deque<Waiting> queue_;
  size_t written_ = 0;  // of the first in the queue
};

class TcpReceivingEnd final : public ReceivingEnd,
                              public std::enable_shared_from_this<TcpReceivingEnd> {
 public:
  // limit_bytes: of bodies that were delivered and not given back; then it reads no further.
  TcpReceivingEnd(Stream stream, const FrameCheck& check, size_t limit_bytes,
                  LinkCounters& counters, Callbacks callbacks);
  ~TcpReceivingEnd() override;

  void Begin() override;
  bool Poll() override { return false; }
  int QuietTicks() override;
  void Close() override;

 private:
  void ReadHeader();
  void TakeHeader();
  void ReadBody();
  void TakeBody();
  void Deliver();
  void Lose(Loss loss);

  Stream stream_;
  FrameCheck check_;
  LinkCounters& counters_;
  const std::shared_ptr<BodyPool> pool_;
  Callbacks callbacks_;
  bool open_ = true;
  bool listening_ = false;  // to the socket, rather than waiting for room
  int quiet_ticks_ = 0;
  worker::FrameHeaderBytes header_bytes_{};
  worker::FrameHeader header_;
  worker::FrameBody body_;
};

}  // namespace conclave::services
