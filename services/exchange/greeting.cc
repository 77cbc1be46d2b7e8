#include "services/exchange/greeting.h"

#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

namespace conclave::services {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

union ControlBuffer {
  cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int))];
};

// All of it at once, as the empty buffer of a new socket allows.
bool SendWithFd(int socket, std::span<const std::byte> bytes, int fd) {
  iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  ControlBuffer control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(bytes.size());
}

// As recv; a descriptor that comes along goes to `fd`, further ones are closed.
ssize_t ReceiveWithFd(int socket, std::span<std::byte> bytes, OwnFd& fd) {
  iovec piece{bytes.data(), bytes.size()};
  ControlBuffer control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  const ssize_t got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) return got;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int received = -1;
      std::memcpy(&received, CMSG_DATA(header) + i * sizeof received, sizeof received);
      fd = OwnFd(received);
    }
  }
  return got;
}

}  // namespace

OwnFd& OwnFd::operator=(OwnFd&& other) noexcept {
  if (this == &other) return *this;
  if (fd_ >= 0) close(fd_);
  fd_ = other.Take();
  return *this;
}

OwnFd::~OwnFd() {
  if (fd_ >= 0) close(fd_);
}

int OwnFd::Take() { return std::exchange(fd_, -1); }

bool SameUser(Stream& stream) {
  ucred who{};
  socklen_t size = sizeof who;
  return getsockopt(stream.native_handle(), SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 &&
         who.uid == geteuid();
}

Dial::Dial(asio::io_context& io, const HelloBytes& hello, Done done)
    : io_(io), hello_(hello), done_(std::move(done)), resolver_(io), tcp_(io), stream_(io) {}

void Dial::ByTcp(const std::string& host, const std::string& port) {
  resolver_.async_resolve(
      host, port, [self = shared_from_this()](error_code failed, const auto& found) {
        if (failed) return self->End(std::nullopt);
        asio::async_connect(self->tcp_, found, [self](error_code error, const tcp::endpoint&) {
          if (error) return self->End(std::nullopt);
          error_code ignored;
          self->tcp_.set_option(tcp::no_delay(true), ignored);
          self->stream_ = Stream(std::move(self->tcp_));
          self->SayHello();
        });
      });
}

void Dial::ByUnix(const std::string& name, int fd) {
  error_code error;
  asio::local::stream_protocol::socket socket(io_);
  // Connecting to one of this machine never waits.
  socket.connect(asio::local::stream_protocol::endpoint(std::string(1, '\0') + name), error);
  if (!error) {
    stream_ = Stream(std::move(socket));
    if (SameUser(stream_) && SendWithFd(stream_.native_handle(), hello_, fd)) return HearVerdict();
  }
  asio::post(io_, [self = shared_from_this()] { self->End(std::nullopt); });
}

void Dial::Cancel() {
  done_ = nullptr;
  error_code ignored;
  resolver_.cancel();
  tcp_.close(ignored);
  stream_.close(ignored);
}

void Dial::SayHello() {
  asio::async_write(stream_, asio::buffer(hello_),
                    [self = shared_from_this()](error_code error, size_t) {
                      if (error) return self->End(std::nullopt);
                      self->HearVerdict();
                    });
}

void Dial::HearVerdict() {
  asio::async_read(stream_, asio::buffer(reply_),
                   [self = shared_from_this()](error_code error, size_t) {
                     self->End(error ? std::nullopt : ParseReply(self->reply_));
                   });
}

void Dial::End(std::optional<Verdict> verdict) {
  if (const Done done = std::exchange(done_, nullptr)) done(verdict, std::move(stream_));
}

Guest::Guest(Stream stream, Judge judge, Done done)
    : stream_(std::move(stream)), judge_(std::move(judge)), done_(std::move(done)) {}

void Guest::Begin() { Wait(); }

void Guest::Wait() {
  stream_.async_wait(Stream::wait_read, [self = shared_from_this()](error_code error) {
    if (error) return self->End(self->Unfinished());
    self->Read();
  });
}

void Guest::Read() {
  const ssize_t got =
      ReceiveWithFd(stream_.native_handle(), std::span(bytes_).subspan(heard_), fd_);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Wait();
  if (got <= 0) return End(Unfinished());
  heard_ += static_cast<size_t>(got);
  if (heard_ < bytes_.size()) return Wait();
  Answer();
}

void Guest::Answer() {
  Verdict verdict = ParseHello(bytes_, hello_);
  if (verdict == Verdict::kWelcome && judge_) verdict = judge_(hello_, fd_);
  const ReplyBytes reply = EncodeReply(verdict);
  error_code error;
  // The empty buffer of a new socket takes it at once.
  asio::write(stream_, asio::buffer(reply), error);
  // Somebody who has said a good hello, perhaps long ago, and did not wait for the answer.
  if (error && verdict == Verdict::kWelcome) return End(std::nullopt);
  End(verdict);
}

std::optional<Verdict> Guest::Unfinished() const {
  if (BeginsAHello(std::span(bytes_).first(heard_))) return std::nullopt;
  return Verdict::kNotAHello;
}

void Guest::End(std::optional<Verdict> verdict) {
  judge_ = nullptr;
  if (const Done done = std::exchange(done_, nullptr)) done(verdict, hello_, std::move(stream_));
}

void Guest::GiveUp() {
  error_code ignored;
  stream_.close(ignored);
  End(Unfinished());
}

}  // namespace conclave::services
