#include "services/adapter_checker.h"

#include <sys/resource.h>
#include <unistd.h>

#include <utility>

#include "services/convert_adapters.h"
#include "services/log.h"

namespace conclave::services {
namespace {

// About a tenth of a CPU that steps take all of: what is verified has its time too.
constexpr int kNiceness = 10;

scheduler::FoundAdapter ToFound(absl::StatusOr<worker::AdapterCheck> checked) {
  if (checked.ok()) {
    return {.digest = std::move(checked->digest),
            .replaced = std::move(checked->replaced),
            .bytes = checked->bytes,
            .shared_bytes = checked->shared_bytes};
  }
  return {.error = static_cast<scheduler::AdapterError>(checked.status().raw_code()),
          .message = std::string(checked.status().message())};
}

}  // namespace

void AdapterChecker::Start(std::function<void()> done) {
  done_ = std::move(done);
  thread_ = std::thread([this] { Run(); });
}

AdapterChecker::~AdapterChecker() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void AdapterChecker::Follow(const v1::ClusterView& view) {
  {
    const std::lock_guard lock(mutex_);
    const v1::AdapterCheck& check = view.check();
    if (check.check() == asked_.check() && check.source() == asked_.source()) return;
    asked_ = check;
    due_ = asked_.check() != 0;
    report_.reset();
  }
  wake_.notify_all();
}

std::optional<v1::AdapterChecked> AdapterChecker::Report() const {
  const std::lock_guard lock(mutex_);
  return report_;
}

void AdapterChecker::Run() {
  // Steps go before: this thread has what they leave of the CPUs, and nobody waits for it but an
  // operator. It may fail, and is then as all others.
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNiceness);
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || due_; });
    if (stopping_) return;
    due_ = false;
    const v1::AdapterCheck asked = asked_;
    lock.unlock();
    scheduler::FoundAdapter found = ToFound(check_(asked.source()));
    if (found.error != scheduler::AdapterError::kNone)
      LogWarning("%s holds no adapter of this model: %s", asked.source(), found.message);
    lock.lock();
    if (due_ || asked_.check() != asked.check()) continue;
    report_ = ToProto(asked.check(), found);
    lock.unlock();
    done_();
    lock.lock();
  }
}

}  // namespace conclave::services
