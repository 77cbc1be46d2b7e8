#pragma once
// HOST:PORT as people write it: "127.0.0.1:8080", "[::1]:0", "worker-3.conclave:7000", ":0" (every
// interface).

#include <string>

#include "absl/status/statusor.h"

namespace conclave::services {

struct Address {
  std::string host;  // without brackets; empty: every interface
  int port = 0;      // 0: any free one, when listening

  // INVALID_ARGUMENT, naming the text, if it is not HOST:PORT.
  static absl::StatusOr<Address> Parse(const std::string& text);

  std::string ToString() const;  // brackets around an IPv6 host
  // 127.0.0.0/8, ::1 or "localhost": nobody outside this machine can reach it.
  bool loopback() const;
  // Every interface: good to listen on, useless to tell others.
  bool wildcard() const;
  // What others call it, given one address of theirs for this machine.
  Address As(const std::string& advertised_host) const;
};

}  // namespace conclave::services
