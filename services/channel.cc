#include "services/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <mutex>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace conclave::services {
namespace {

int Milliseconds(std::chrono::milliseconds time) { return static_cast<int>(time.count()); }

// The first thread of a process that waits for a mutex of Abseil's behind another one asks /sys for
// the clock's frequency, a file that most machines lack. gRPC 1.51 looks at errno only after it has
// locked one of them, and takes that file's absence for its connect's. So the first wait is over
// before there is a connect.
void WaitOnce() {
  static std::once_flag once;
  std::call_once(once, [] {
    absl::Mutex mutex;
    bool waits = false;
    bool done = false;
    std::thread before([&] {
      const absl::MutexLock lock(&mutex);
      waits = true;
      mutex.Await(absl::Condition(&done));
    });
    mutex.LockWhen(absl::Condition(&waits));
    mutex.AwaitWithTimeout(absl::Condition(&done), absl::Milliseconds(1));
    done = true;
    mutex.Unlock();
    before.join();
  });
}

}  // namespace

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const Credentials& credentials,
                                           const ChannelOptions& options) {
  WaitOnce();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(options.receive_bytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.keepalive_wait));
  // Despite its name this bounds an attempt from below; it does not delay the next one.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, Milliseconds(options.connect_wait));
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, Milliseconds(options.min_backoff));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, Milliseconds(options.max_backoff));
  // Peers of the cluster are reached directly, whatever the environment says of proxies.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Otherwise two channels of one process to one address would share a connection and its backoff.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, credentials.ForChannel(), arguments);
}

}  // namespace conclave::services
