#pragma once
// The scheduler's views as a worker follows them: on a thread of its own, as getting ready for one
// may take as long as fetching experts; of those that came meanwhile the latest; and again, after a
// pause that grows, what could not be followed.

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "conclave/v1/cluster.pb.h"

namespace conclave::services {

class ViewInbox {
 public:
  struct Options {
    std::chrono::milliseconds retry_min{500};  // doubling to
    std::chrono::milliseconds retry_max{15'000};
  };
  // follow: false if it is to be tried again; called by one thread.
  using Follow = std::function<bool(const v1::ClusterView&)>;

  ViewInbox(const Options& options, Follow follow);
  ~ViewInbox();  // follow is not running any more

  // Any thread; does not block.
  void Put(const v1::ClusterView& view);

 private:
  void Run();

  const Options options_;
  const Follow follow_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::optional<v1::ClusterView> next_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace conclave::services
