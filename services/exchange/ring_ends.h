#pragma once
// Frames through a ring of shared memory. A Unix socket beside it wakes who sleeps, one byte each
// time, and its end is the other process's end: nobody waits for a ring.

#include <array>
#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "services/exchange/link.h"
#include "services/exchange/ring.h"
#include "services/exchange/tcp_ends.h"

namespace conclave::services {

class RingSendingEnd final : public SendingEnd,
                             public std::enable_shared_from_this<RingSendingEnd> {
 public:
  // As of TcpSendingEnd.
  RingSendingEnd(Stream stream, std::shared_ptr<RingSender> ring, const worker::FrameHeader& blank,
                 LinkCounters& counters, std::function<void(Loss)> on_lost);
  ~RingSendingEnd() override { ring_->Abandon(); }

  void Begin();

  std::optional<worker::FrameBody> Reserve(size_t size) override { return ring_->Reserve(size); }
  bool Send(worker::FrameHeader header, worker::FrameBody body) override;
  void SayAlive() override;
  void Close() override;

 private:
  void Wake();  // mutex_ held
  void AwaitEnd();

  const std::shared_ptr<RingSender> ring_;
  const worker::FrameHeader blank_;
  LinkCounters& counters_;
  std::byte ignored_{};

  std::mutex mutex_;  // guards what follows
  Stream stream_;
  std::function<void(Loss)> on_lost_;
  bool open_ = true;
  bool woke_ = false;  // since it was asked to say that we live
  uint64_t sequence_ = 0;
};

class RingReceivingEnd final : public ReceivingEnd,
                               public std::enable_shared_from_this<RingReceivingEnd> {
 public:
  RingReceivingEnd(Stream stream, std::shared_ptr<RingReceiver> ring, const FrameCheck& check,
                   LinkCounters& counters, Callbacks callbacks);

  void Begin() override;
  bool Poll() override;
  int QuietTicks() override;
  void Close() override;

  // While somebody watches, who polls again and again, the sender need not wake anybody. Any
  // thread.
  void BeginWatch();
  void EndWatch();

 private:
  void AwaitWakeUp();
  bool Drain();  // taking_ held
  void DrainAndSleep();
  void Lose(Loss loss);

  LinkCounters& counters_;
  std::atomic<int> quiet_ticks_{0};
  std::array<std::byte, 256> ignored_{};
  Stream stream_;  // the transport's thread

  std::mutex taking_;  // guards what follows
  const std::shared_ptr<RingReceiver> ring_;
  FrameCheck check_;
  Callbacks callbacks_;
  bool open_ = true;
  bool begun_ = false;
};

}  // namespace conclave::services
