#include "services/network_threads.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <list>
#include <mutex>
#include <string>
#include <thread>

#include "conclave/v1/inference.grpc.pb.h"

namespace conclave::services {
namespace {

constexpr std::chrono::seconds kFirstRun{1};  // of a thread that was made

// Those that carry out reactions have this name of gRPC's.
int CountThreads() {
  int count = 0;
  std::error_code gone;  // a thread may end meanwhile
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", gone)) {
    std::ifstream file(task.path() / "comm");
    std::string name;
    std::getline(file, name);
    count += name == "nexting_thread";
  }
  return count;
}

// As many as gRPC makes, once all of them have run, for each takes its name when it first does; or
// those there are when it should long have been so.
int AwaitThreads() {
  const int made = std::clamp(static_cast<int>(sysconf(_SC_NPROCESSORS_CONF)) / 2, 2, 16);
  const auto until = std::chrono::steady_clock::now() + kFirstRun;
  int count = CountThreads();
  while (count < made && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    count = CountThreads();
  }
  return count;
}

}  // namespace

// Calls over a channel that leads nowhere: each fails at once, and its reaction keeps the thread it
// is on.
class NetworkThreads::Calls {
 public:
  explicit Calls(std::chrono::milliseconds patience)
      : stub_(v1::Inference::NewStub(grpc::CreateChannel("", nullptr))),
        until_(std::chrono::steady_clock::now() + patience) {}
  // A reaction that was not carried out in time is waited for: gRPC has its call.
  ~Calls() {
    std::unique_lock lock(mutex_);
    released_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return ended_ == calls_.size(); });
  }

  // Whether the reaction was carried out in time.
  bool Hold() { return Run(/*hold=*/true); }
  bool Try() { return Run(/*hold=*/false); }

 private:
  struct Call {
    grpc::ClientContext context;
    v1::ListModelsRequest request;
    v1::ListModelsResponse response;
    bool begun = false;
  };

  bool Run(bool hold) {
    Call& call = calls_.emplace_back();
    stub_->async()->ListModels(&call.context, &call.request, &call.response,
                               [this, &call, hold](const grpc::Status&) { React(call, hold); });
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, until_, [&] { return call.begun; });
  }
  void React(Call& call, bool hold) {
    std::unique_lock lock(mutex_);
    call.begun = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !hold || released_; });
    ++ended_;
    changed_.notify_all();
  }

  const std::unique_ptr<v1::Inference::Stub> stub_;
  const std::chrono::steady_clock::time_point until_;
  std::list<Call> calls_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t ended_ = 0;
  bool released_ = false;
};

NetworkThreads::NetworkThreads(std::chrono::milliseconds patience)
    : calls_(std::make_unique<Calls>(patience)) {}
NetworkThreads::~NetworkThreads() = default;

absl::StatusOr<std::unique_ptr<NetworkThreads>> NetworkThreads::Limit(
    int threads, std::chrono::milliseconds patience) {
  std::unique_ptr<NetworkThreads> limit(new NetworkThreads(patience));
  bool works = limit->calls_->Try();  // and by now gRPC has made its threads
  for (int spare = AwaitThreads() - threads; works && spare > 0; --spare) {
    works = limit->calls_->Hold();
    limit->held_ += works;
  }
  if (!works || !limit->calls_->Try()) {
    return absl::UnavailableError("gRPC does not carry out calls with fewer threads");
  }
  return limit;
}

}  // namespace conclave::services
