#pragma once
// Verifies directories of adapters as the scheduler's views ask for it, on a thread of its own: to
// read all of one takes its time, and other views are not to wait for that.

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "conclave/v1/cluster.pb.h"
#include "worker/experts/adapter_check.h"

namespace conclave::services {

class AdapterChecker {
 public:
  // Of a directory; called by one thread.
  using Check = std::function<absl::StatusOr<worker::AdapterCheck>(const std::string& source)>;
  explicit AdapterChecker(Check check) : check_(std::move(check)) {}
  ~AdapterChecker();  // waits for a check that runs

  // Once, before Follow. done: there is something to report.
  void Start(std::function<void()> done);

  // Starts what the view asks for, unless that was done; any thread, does not block. One that runs
  // and is asked for no longer runs to its end, and is not reported.
  void Follow(const v1::ClusterView& view);
  // Of what was asked for last; nothing while it runs.
  std::optional<v1::AdapterChecked> Report() const;

 private:
  void Run();

  const Check check_;
  std::function<void()> done_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  v1::AdapterCheck asked_;  // check 0: nothing
  bool due_ = false;        // it is not begun
  std::optional<v1::AdapterChecked> report_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace conclave::services
