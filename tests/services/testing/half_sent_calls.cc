#include "tests/services/testing/half_sent_calls.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "scheduler/check.h"

namespace conclave::services::testing {
namespace {

enum Frame : uint8_t {
  kData = 0,
  kHeaders = 1,
  kReset = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
};
constexpr uint8_t kAck = 1;
constexpr uint8_t kEndStream = 1;
constexpr uint8_t kEndHeaders = 4;
constexpr uint16_t kInitialWindowSize = 4;
constexpr size_t kFrameHeaderBytes = 9;
constexpr int64_t kFrameBytes = 16384;  // what every server takes
constexpr int64_t kPrefixBytes = 5;     // of a gRPC message: not compressed, length

std::string BigEndian(uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}

uint32_t ReadBigEndian(const std::string& bytes, size_t at, size_t count) {
  uint32_t value = 0;
  for (size_t i = at; i < at + count; ++i) value = value << 8 | static_cast<uint8_t>(bytes.at(i));
  return value;
}

// HPACK's plainest form: neither indexed nor compressed (RFC 7541 §6.2.2); both under 127 bytes.
std::string Header(const std::string& name, const std::string& value) {
  CONCLAVE_CHECK(name.size() < 127 && value.size() < 127);
  return std::string(1, '\0') + static_cast<char>(name.size()) + name +
         static_cast<char>(value.size()) + value;
}

}  // namespace

HalfSentCalls::HalfSentCalls(const Address& server) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(server.port));
  CONCLAVE_CHECK(inet_pton(AF_INET, server.host.c_str(), &address.sin_addr) == 1);
  CONCLAVE_CHECK(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  outgoing_ = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  SendFrame(kSettings, 0, 0, "");
}

HalfSentCalls::~HalfSentCalls() { close(socket_); }

void HalfSentCalls::Open(const std::string& path, uint32_t message_bytes) {
  last_stream_ += last_stream_ == 0 ? 1 : 2;
  SendFrame(kHeaders, kEndHeaders, last_stream_,
            Header(":method", "POST") + Header(":scheme", "http") + Header(":path", path) +
                Header(":authority", "test") + Header("content-type", "application/grpc") +
                Header("te", "trailers"));
  SendFrame(kData, 0, last_stream_, std::string(1, '\0') + BigEndian(message_bytes, 4));
  calls_[last_stream_] = {.left = int64_t{message_bytes} - 1,
                          .window = call_window_ - kPrefixBytes};
  window_ -= kPrefixBytes;
}

bool HalfSentCalls::done() const {
  return hung_up_ || std::all_of(calls_.begin(), calls_.end(),
                                 [](const auto& call) { return call.second.left == 0; });
}

bool HalfSentCalls::Step() {
  if (outgoing_.empty()) SendData();
  const bool flushed = Flush();
  return Receive() || flushed;
}

void HalfSentCalls::SendData() {
  for (auto& [stream, call] : calls_) {
    const int64_t bytes = std::min({call.left, call.window, window_, kFrameBytes});
    if (bytes <= 0) continue;
    SendFrame(kData, 0, stream, std::string(static_cast<size_t>(bytes), '\0'));
    call.left -= bytes;
    call.window -= bytes;
    window_ -= bytes;
    sent_bytes_ += bytes;
  }
}

bool HalfSentCalls::Receive() {
  pollfd readable = {.fd = socket_, .events = POLLIN, .revents = 0};
  if (hung_up_ || poll(&readable, 1, 0) <= 0) return false;
  char bytes[64 << 10];
  const ssize_t count = recv(socket_, bytes, sizeof(bytes), 0);
  if (count <= 0) {
    hung_up_ = true;
    return true;
  }
  received_.append(bytes, static_cast<size_t>(count));
  while (received_.size() >= kFrameHeaderBytes) {
    const size_t length = ReadBigEndian(received_, 0, 3);
    if (received_.size() < kFrameHeaderBytes + length) break;
    Take(static_cast<uint8_t>(received_[3]), static_cast<uint8_t>(received_[4]),
         ReadBigEndian(received_, 5, 4), received_.substr(kFrameHeaderBytes, length));
    received_.erase(0, kFrameHeaderBytes + length);
  }
  return true;
}

void HalfSentCalls::Take(uint8_t type, uint8_t flags, uint32_t stream, const std::string& payload) {
  if (type == kSettings && (flags & kAck) == 0) {
    for (size_t at = 0; at + 6 <= payload.size(); at += 6) {
      if (ReadBigEndian(payload, at, 2) != kInitialWindowSize) continue;
      const int64_t window = ReadBigEndian(payload, at + 2, 4);
      for (auto& [id, call] : calls_) call.window += window - call_window_;
      call_window_ = window;
    }
    SendFrame(kSettings, kAck, 0, "");
  } else if (type == kPing && (flags & kAck) == 0) {
    SendFrame(kPing, kAck, 0, payload);
  } else if (type == kWindowUpdate) {
    const auto call = calls_.find(stream);
    if (stream != 0 && call == calls_.end()) return;
    (stream == 0 ? window_ : call->second.window) += ReadBigEndian(payload, 0, 4);
  } else if (type == kReset || (type == kHeaders && (flags & kEndStream) != 0)) {
    ended_ += static_cast<int>(calls_.erase(stream));
  } else if (type == kGoAway) {
    hung_up_ = true;
  }
}

void HalfSentCalls::SendFrame(uint8_t type, uint8_t flags, uint32_t stream,
                              const std::string& payload) {
  outgoing_ += BigEndian(payload.size(), 3) + static_cast<char>(type) + static_cast<char>(flags) +
               BigEndian(stream, 4) + payload;
}

// As much as the kernel takes now: a server under pressure reads no more.
bool HalfSentCalls::Flush() {
  if (outgoing_.empty() || hung_up_) return false;
  const ssize_t count =
      send(socket_, outgoing_.data(), outgoing_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
  hung_up_ = count <= 0;
  outgoing_.erase(0, static_cast<size_t>(std::max<ssize_t>(count, 0)));
  return true;
}

}  // namespace conclave::services::testing
