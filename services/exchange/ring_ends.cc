#include "services/exchange/ring_ends.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <utility>

namespace conclave::services {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

}  // namespace

RingSendingEnd::RingSendingEnd(Stream stream, std::shared_ptr<RingSender> ring,
                               const worker::FrameHeader& blank, LinkCounters& counters,
                               std::function<void(Loss)> on_lost)
    : ring_(std::move(ring)),
      blank_(blank),
      counters_(counters),
      stream_(std::move(stream)),
      on_lost_(std::move(on_lost)) {
  error_code ignored;
  stream_.non_blocking(true, ignored);
}

void RingSendingEnd::Begin() {
  const std::lock_guard lock(mutex_);
  AwaitEnd();
}

void RingSendingEnd::AwaitEnd() {
  stream_.async_read_some(asio::buffer(&ignored_, 1),
                          [self = shared_from_this()](error_code error, size_t) {
                            if (error == asio::error::operation_aborted) return;
                            std::function<void(Loss)> on_lost;
                            {
                              const std::lock_guard lock(self->mutex_);
                              self->open_ = false;
                              on_lost = std::exchange(self->on_lost_, nullptr);
                            }
                            if (on_lost) on_lost(Loss::kEnded);
                          });
}

bool RingSendingEnd::Send(worker::FrameHeader header, worker::FrameBody body) {
  header.from = blank_.from;
  header.to = blank_.to;
  header.body_bytes = body.bytes().size();
  header.body_hash = 0;
  const uint64_t bytes = worker::kFrameHeaderBytes + header.body_bytes;
  const std::lock_guard lock(mutex_);
  if (!open_) return false;
  header.sequence = sequence_ + 1;
  const RingSender::Sent sent = ring_->Send(worker::EncodeHeader(header), std::move(body));
  if (sent == RingSender::Sent::kNoRoom) return false;
  ++sequence_;
  ++counters_.frames_sent;
  counters_.bytes_sent += bytes;
  if (sent == RingSender::Sent::kWake) Wake();
  return true;
}

// A socket that takes no more is full of bytes that wake.
void RingSendingEnd::Wake() {
  const std::byte byte{};
  error_code ignored;
  stream_.write_some(asio::buffer(&byte, 1), ignored);
  woke_ = true;
}

void RingSendingEnd::SayAlive() {
  const std::lock_guard lock(mutex_);
  if (open_ && !woke_) Wake();
  woke_ = false;
}

void RingSendingEnd::Close() {
  const std::lock_guard lock(mutex_);
  open_ = false;
  on_lost_ = nullptr;
  ring_->Abandon();
  error_code ignored;
  stream_.close(ignored);
}

RingReceivingEnd::RingReceivingEnd(Stream stream, std::shared_ptr<RingReceiver> ring,
                                   const FrameCheck& check, LinkCounters& counters,
                                   Callbacks callbacks)
    : counters_(counters),
      stream_(std::move(stream)),
      ring_(std::move(ring)),
      check_(check),
      callbacks_(std::move(callbacks)) {
  error_code ignored;
  stream_.non_blocking(true, ignored);
}

void RingReceivingEnd::Begin() {
  AwaitWakeUp();
  {
    const std::lock_guard lock(taking_);
    begun_ = true;
  }
  DrainAndSleep();
}

int RingReceivingEnd::QuietTicks() { return quiet_ticks_++; }

void RingReceivingEnd::AwaitWakeUp() {
  stream_.async_read_some(asio::buffer(ignored_),
                          [self = shared_from_this()](error_code error, size_t) {
                            if (error == asio::error::operation_aborted) return;
                            if (error) return self->Lose(Loss::kEnded);
                            self->quiet_ticks_ = 0;
                            self->DrainAndSleep();
                            self->AwaitWakeUp();
                          });
}

bool RingReceivingEnd::Poll() {
  const std::unique_lock lock(taking_, std::try_to_lock);
  return lock.owns_lock() && Drain();
}

void RingReceivingEnd::DrainAndSleep() {
  const std::lock_guard lock(taking_);
  do {
    Drain();
  } while (open_ && begun_ && !ring_->Sleep());
}

void RingReceivingEnd::BeginWatch() { ring_->WakeUp(); }

void RingReceivingEnd::EndWatch() { DrainAndSleep(); }

bool RingReceivingEnd::Drain() {
  bool any = false;
  while (open_ && begun_) {
    RingReceiver::Taken taken = ring_->Take();
    if (taken.what == RingReceiver::Taken::What::kNothing) break;
    std::optional<Loss> loss;
    worker::FrameHeader header;
    if (taken.what == RingReceiver::Taken::What::kNonsense) loss = Loss::kRing;
    if (!loss) loss = check_.Header(taken.header, header);
    if (!loss) loss = check_.Body(header, taken.body.bytes());
    if (loss) {
      open_ = false;
      asio::post(stream_.get_executor(), [self = shared_from_this(), loss] { self->Lose(*loss); });
      break;
    }
    quiet_ticks_ = 0;
    any = true;
    ++counters_.frames_received;
    counters_.bytes_received += worker::kFrameHeaderBytes + header.body_bytes;
    if (header.kind != worker::FrameKind::kAlive)
      callbacks_.on_frame(header, std::move(taken.body));
  }
  return any;
}

void RingReceivingEnd::Lose(Loss loss) {
  std::function<void(Loss)> on_lost;
  {
    const std::lock_guard lock(taking_);
    open_ = false;
    on_lost = std::exchange(callbacks_.on_lost, nullptr);
  }
  if (on_lost) on_lost(loss);
}

void RingReceivingEnd::Close() {
  const std::lock_guard lock(taking_);
  open_ = false;
  callbacks_.on_lost = nullptr;
  error_code ignored;
  stream_.close(ignored);
}

}  // namespace conclave::services
