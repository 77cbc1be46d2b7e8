#pragma once
// Client connections to other processes of the cluster: the same limits and security everywhere, a
// bounded wait before a lost peer is tried again.

#include <grpcpp/channel.h>

#include <chrono>
#include <memory>
#include <string>

#include "services/credentials.h"

namespace conclave::services {

struct ChannelOptions {
  int32_t receive_bytes = 64 << 20;  // of one message
  std::chrono::milliseconds keepalive{
      20'000};  // a silent connection is pinged after this, if calls are open
  std::chrono::milliseconds keepalive_wait{10'000};  // and given up after this without an answer
  std::chrono::milliseconds connect_wait{5'000};     // for a peer that accepts but says nothing: a
                                                     // busy machine is not a dead one
  std::chrono::milliseconds min_backoff{100};  // before a lost peer is tried again, growing to
  std::chrono::milliseconds max_backoff{2'000};
};

// Connects when first used. `address` is HOST:PORT.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const Credentials& credentials,
                                           const ChannelOptions& options = {});

}  // namespace conclave::services
