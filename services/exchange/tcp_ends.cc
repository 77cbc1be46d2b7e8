#include "services/exchange/tcp_ends.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <utility>

namespace conclave::services {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr size_t kGathered = 16;         // pieces of memory in one write
constexpr size_t kReadAtOnce = 1 << 20;  // bytes

asio::mutable_buffer BufferOf(const worker::FrameBody& body) {
  return asio::buffer(body.bytes().data(), body.bytes().size());
}

}  // namespace

TcpSendingEnd::TcpSendingEnd(Stream stream, const Limits& limits, const worker::FrameHeader& blank,
                             LinkCounters& counters, std::function<void(Loss)> on_lost)
    : limits_(limits),
      blank_(blank),
      counters_(counters),
      pool_(BodyPool::Make(limits.bytes)),
      stream_(std::move(stream)),
      on_lost_(std::move(on_lost)) {
  error_code ignored;
  stream_.non_blocking(true, ignored);
}

void TcpSendingEnd::Begin() {
  const std::lock_guard lock(mutex_);
  AwaitEnd();
}

// The other side never writes after its reply; what can be read is its end.
void TcpSendingEnd::AwaitEnd() {
  stream_.async_read_some(asio::buffer(&ignored_, 1),
                          [self = shared_from_this()](error_code error, size_t) {
                            if (error == asio::error::operation_aborted) return;
                            const std::lock_guard lock(self->mutex_);
                            self->Lost();
                          });
}

bool TcpSendingEnd::Send(worker::FrameHeader header, worker::FrameBody body) {
  header.from = blank_.from;
  header.to = blank_.to;
  header.body_bytes = body.bytes().size();
  header.body_hash = body.bytes().empty() ? 0 : worker::HashBody(body.bytes());
  const std::lock_guard lock(mutex_);
  return SendLocked(header, std::move(body));
}

void TcpSendingEnd::SayAlive() {
  worker::FrameHeader header = blank_;
  header.kind = worker::FrameKind::kAlive;
  const std::lock_guard lock(mutex_);
  if (sequence_ == sequence_when_asked_ && queue_.empty()) SendLocked(header, {});
  sequence_when_asked_ = sequence_;
}

bool TcpSendingEnd::SendLocked(const worker::FrameHeader& header, worker::FrameBody body) {
  if (!open_ || queue_.size() >= limits_.frames) return false;
  worker::FrameHeader numbered = header;
  numbered.sequence = ++sequence_;
  queue_.push_back({worker::EncodeHeader(numbered), std::move(body)});
  // Otherwise the socket is full, and somebody waits for it already.
  if (queue_.size() == 1) Write();
  return open_;
}

void TcpSendingEnd::Write() {
  while (open_ && !queue_.empty()) {
    const std::optional<size_t> bytes = WriteSome();
    if (!bytes.has_value()) return;
    Written(*bytes);
  }
}

// How much the socket took; nothing if it takes no more, and then Write comes again by itself.
std::optional<size_t> TcpSendingEnd::WriteSome() {
  std::array<asio::const_buffer, kGathered> pieces;
  size_t count = 0;
  size_t skip = written_;
  for (const Waiting& frame : queue_) {
    if (count + 2 > kGathered) break;
    const asio::const_buffer header = asio::buffer(frame.header) + skip;
    skip -= frame.header.size() - header.size();
    pieces[count++] = header;
    pieces[count++] = BufferOf(frame.body) + skip;
    skip = 0;
  }
  error_code error;
  const size_t bytes = stream_.write_some(std::span(pieces).first(count), error);
  if (!error) return bytes;
  if (error != asio::error::would_block && error != asio::error::try_again) {
    Lost();
    return std::nullopt;
  }
  stream_.async_wait(Stream::wait_write, [self = shared_from_this()](error_code failed) {
    if (failed == asio::error::operation_aborted) return;
    const std::lock_guard lock(self->mutex_);
    self->Write();
  });
  return std::nullopt;
}

void TcpSendingEnd::Written(size_t bytes) {
  counters_.bytes_sent += bytes;
  written_ += bytes;
  while (!queue_.empty()) {
    const size_t whole = worker::kFrameHeaderBytes + queue_.front().body.bytes().size();
    if (written_ < whole) return;
    written_ -= whole;
    queue_.pop_front();
    ++counters_.frames_sent;
  }
}

// Tells on the transport's thread, whoever noticed. mutex_ held.
void TcpSendingEnd::Lost() {
  if (!open_) return;
  open_ = false;
  asio::post(stream_.get_executor(), [self = shared_from_this()] {
    std::function<void(Loss)> on_lost;
    {
      const std::lock_guard lock(self->mutex_);
      on_lost = std::exchange(self->on_lost_, nullptr);
    }
    if (on_lost) on_lost(Loss::kEnded);
  });
}

void TcpSendingEnd::Close() {
  std::deque<Waiting> queue;
  const std::lock_guard lock(mutex_);
  open_ = false;
  on_lost_ = nullptr;
  queue.swap(queue_);
  error_code ignored;
  stream_.close(ignored);
}

TcpReceivingEnd::TcpReceivingEnd(Stream stream, const FrameCheck& check, size_t limit_bytes,
                                 LinkCounters& counters, Callbacks callbacks)
    : stream_(std::move(stream)),
      check_(check),
      counters_(counters),
      pool_(BodyPool::Make(limit_bytes)),
      callbacks_(std::move(callbacks)) {
  error_code ignored;
  stream_.non_blocking(true, ignored);
}

// A body may be given back when there is no transport any more.
TcpReceivingEnd::~TcpReceivingEnd() { pool_->WhenGivenBack(nullptr); }

void TcpReceivingEnd::Begin() { ReadHeader(); }

int TcpReceivingEnd::QuietTicks() {
  if (listening_) return quiet_ticks_++;
  return 0;
}

void TcpReceivingEnd::ReadHeader() {
  if (!open_) return;
  listening_ = true;
  asio::async_read(stream_, asio::buffer(header_bytes_),
                   [self = shared_from_this()](error_code error, size_t) {
                     if (error) return self->Lose(Loss::kEnded);
                     self->TakeHeader();
                   });
}

void TcpReceivingEnd::TakeHeader() {
  if (!open_) return;
  quiet_ticks_ = 0;
  if (const auto loss = check_.Header(header_bytes_, header_)) return Lose(*loss);
  counters_.bytes_received += worker::kFrameHeaderBytes + header_.body_bytes;
  ++counters_.frames_received;
  if (header_.kind == worker::FrameKind::kAlive) return ReadHeader();
  if (header_.body_bytes == 0) return Deliver();
  ReadBody();
}

void TcpReceivingEnd::ReadBody() {
  if (!open_) return;
  auto body = pool_->Take(header_.body_bytes);
  listening_ = body.has_value();
  if (!body.has_value()) {
    pool_->WhenGivenBack([this, weak = weak_from_this()] {
      // The destructor waits for this callback, so `this` is whole as far as it is used here.
      asio::post(stream_.get_executor(), [weak] {
        if (const auto self = weak.lock()) self->ReadBody();
      });
    });
    return;
  }
  body_ = *std::move(body);
  // Every piece of a large body on a slow way is a sign of life.
  const auto more = [self = shared_from_this()](error_code error, size_t) {
    self->quiet_ticks_ = 0;
    return error ? size_t{0} : kReadAtOnce;
  };
  asio::async_read(stream_, BufferOf(body_), more,
                   [self = shared_from_this()](error_code error, size_t) {
                     if (error) return self->Lose(Loss::kEnded);
                     self->TakeBody();
                   });
}

void TcpReceivingEnd::TakeBody() {
  if (!open_) return;
  if (const auto loss = check_.Body(header_, body_.bytes())) return Lose(*loss);
  Deliver();
}

void TcpReceivingEnd::Deliver() {
  if (!open_) return;
  quiet_ticks_ = 0;
  callbacks_.on_frame(header_, std::exchange(body_, {}));
  ReadHeader();
}

void TcpReceivingEnd::Lose(Loss loss) {
  if (!open_) return;
  const auto on_lost = std::exchange(callbacks_.on_lost, nullptr);
  Close();
  on_lost(loss);
}

void TcpReceivingEnd::Close() {
  open_ = false;
  error_code ignored;
  stream_.close(ignored);
}

}  // namespace conclave::services
