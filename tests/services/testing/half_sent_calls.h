#pragma once
// A client that means ill: opens many calls on one connection and sends of each message all but the
// last byte, as fast as the server lets it. Speaks as much HTTP/2 (RFC 9113) as that takes, because
// a gRPC client cannot stop inside a message. Without TLS. One thread.

#include <cstdint>
#include <map>
#include <string>

#include "services/address.h"

namespace conclave::services::testing {

class HalfSentCalls {
 public:
  explicit HalfSentCalls(const Address& server);
  ~HalfSentCalls();  // hangs up
  HalfSentCalls(const HalfSentCalls&) = delete;
  HalfSentCalls& operator=(const HalfSentCalls&) = delete;

  // Opens a call of /SERVICE/METHOD whose message claims that many bytes.
  void Open(const std::string& path, uint32_t message_bytes);
  // Sends what flow control allows and takes what comes. True: there was something to do.
  bool Step();

  int64_t sent_bytes() const { return sent_bytes_; }  // of messages
  int ended_by_server() const { return ended_; }      // calls answered or reset
  bool done() const;  // every call that lives has sent all but its last byte, or the server hung up
  bool hung_up() const { return hung_up_; }

 private:
  struct Call {
    int64_t left = 0;    // bytes of the message still to send, the last one not counted
    int64_t window = 0;  // what the server still takes of this call; may be negative
  };

  void SendFrame(uint8_t type, uint8_t flags, uint32_t stream, const std::string& payload);
  void SendData();
  bool Flush();
  bool Receive();
  void Take(uint8_t type, uint8_t flags, uint32_t stream, const std::string& payload);

  int socket_ = -1;
  bool hung_up_ = false;
  uint32_t last_stream_ = 0;
  int64_t window_ = 65535;       // of the connection
  int64_t call_window_ = 65535;  // of a new call
  std::map<uint32_t, Call> calls_;
  std::string outgoing_;  // not yet taken by the kernel
  std::string received_;  // not yet a whole frame
  int64_t sent_bytes_ = 0;
  int ended_ = 0;
};

}  // namespace conclave::services::testing
