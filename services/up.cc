#include "services/up.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/adapter_call.h"
#include "services/channel.h"
#include "services/probe.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using std::chrono::milliseconds;

constexpr char kRouterProgram[] = "conclave-router";
constexpr milliseconds kProbePause(20);  // between two looks at a router that is not ready
// How soon it is noticed that a child was stopped, of which nothing wakes a poll.
constexpr milliseconds kStopCheck(1000);

// The value of `key` in "listening grpc=HOST:PORT metrics=HOST:PORT".
std::optional<std::string> ValueOf(const std::string& key, const std::string& line) {
  if (line.rfind("listening ", 0) != 0) return std::nullopt;
  const size_t at = line.find(" " + key + "=");
  if (at == std::string::npos) return std::nullopt;
  const size_t begin = at + key.size() + 2;
  return line.substr(begin, line.find(' ', begin) - begin);
}

// Names that sort as their numbers do: a plan's worker i is the i-th by name.
std::string NameOf(const std::string& kind, int32_t i, int32_t count) {
  const auto width = static_cast<int>(std::to_string(count - 1).size());
  return absl::StrFormat("%s-%0*d", kind, width, i);
}

// HOST:0 of HOST:PORT. What is no address stays none, for the process to refuse.
std::string AnyPortOf(const std::string& address) {
  return address.substr(0, address.rfind(':') + 1) + "0";
}

// Of a process that was still starting: one that has no handler yet ends by the signal itself.
bool IsEndByTerm(int wait_status) {
  return WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) == SIGTERM
                                  : WEXITSTATUS(wait_status) == 128 + SIGTERM;
}

milliseconds Left(std::chrono::steady_clock::time_point until) {
  const auto left = std::chrono::ceil<milliseconds>(until - std::chrono::steady_clock::now());
  return std::clamp(left, milliseconds(0), milliseconds(60'000));
}

}  // namespace

struct Up::Process {
  std::string name;
  std::string program;
  bool restart = false;
  std::unique_ptr<Child> child;  // null: not running
  std::string grpc;              // where it listens, once it has said so
  std::string metrics;
  bool listens = false;  // has said so since it was last started
  int stopped_by = 0;    // as was last said of it
  Clock::time_point started;
  milliseconds backoff{0};                 // of the last restart
  std::optional<Clock::time_point> again;  // when it is to be restarted
};

Up::Up(const Options& options, std::ostream& out, std::ostream& err)
    : options_(options),
      out_(out),
      err_(err),
      scheduler_(
          new Process{.name = "scheduler", .program = "conclave-scheduler", .restart = true}) {
  for (int32_t i = 0; i < options_.workers; ++i) {
    workers_.emplace_back(new Process{.name = NameOf("worker", i, options_.workers),
                                      .program = "conclave-worker",
                                      .restart = options_.restart_workers});
  }
  for (int32_t i = 0; i < options_.routers; ++i) {
    const std::string name =
        options_.routers == 1 ? "router" : NameOf("router", i, options_.routers);
    routers_.emplace_back(new Process{.name = name, .program = kRouterProgram, .restart = true});
  }
}

Up::~Up() = default;

absl::Status Up::Run(Shutdown& shutdown) {
  shutdown_ = &shutdown;
  CONCLAVE_ASSIGN_OR_RETURN(state_, StateDirectory::Open(options_.state));
  ready_by_ = Clock::now() + options_.ready_wait;
  absl::Status status = StartAll();
  if (status.ok()) status = WaitUntilReady();
  if (status.ok()) status = AddAdapters();
  if (status.ok()) {
    ready_ = true;
    SayReady();
    Supervise();
  }
  if (ready_) return Drain();
  EndAll();
  // Asked to stop before it was ready: that is no failure.
  return absl::IsCancelled(status) ? absl::OkStatus() : status;
}

// A cluster of one router is known by its address alone.
void Up::SayReady() {
  const Process& first = *routers_.front();
  std::string line = absl::StrFormat("ready grpc=%s http=- metrics=%s", first.grpc, first.metrics);
  if (routers_.size() > 1) {
    line += " routers=" + absl::StrJoin(routers_, ",", [](std::string* text, const auto& router) {
              *text += router->grpc;
            });
  }
  out_ << line << "\n" << std::flush;
}

std::vector<Up::Process*> Up::All() const {
  std::vector<Process*> all = {scheduler_.get()};
  for (const std::unique_ptr<Process>& worker : workers_) all.push_back(worker.get());
  for (const std::unique_ptr<Process>& router : routers_) all.push_back(router.get());
  return all;
}

absl::Status Up::StartAll() {
  CONCLAVE_RETURN_IF_ERROR(Launch(*scheduler_));
  CONCLAVE_RETURN_IF_ERROR(AwaitListening(*scheduler_));
  for (Process* const process : All()) {
    if (process != scheduler_.get()) CONCLAVE_RETURN_IF_ERROR(Launch(*process));
  }
  for (Process* const process : All()) CONCLAVE_RETURN_IF_ERROR(AwaitListening(*process));
  return absl::OkStatus();
}

absl::Status Up::AwaitListening(Process& process) {
  while (process.grpc.empty()) {
    CONCLAVE_RETURN_IF_ERROR(StillStarting(process.name + " does not listen yet"));
    Pump(Left(ready_by_));
  }
  return absl::OkStatus();
}

absl::Status Up::WaitUntilReady() {
  for (const std::unique_ptr<Process>& router : routers_) {
    const std::shared_ptr<grpc::Channel> channel = MakeChannel(router->grpc, Credentials());
    for (std::string missing; !(missing = MissingOf(channel)).empty();) {
      CONCLAVE_RETURN_IF_ERROR(StillStarting(router->name + ": " + missing));
      Pump(kProbePause);
    }
  }
  return absl::OkStatus();
}

std::string Up::MissingOf(const std::shared_ptr<grpc::Channel>& router) const {
  if (!IsServing(router)) return "it takes no requests yet";
  if (!SeesAll(router, options_.workers, options_.routers))
    return "it does not see all workers and routers yet";
  if (!OwnersServe(router)) return "an expert has no owner that serves";
  return "";
}

absl::Status Up::AddAdapters() {
  for (const v1::AddAdapterRequest& adapter : options_.adapters) {
    AddAdapterCall call(MakeChannel(routers_.front()->grpc, Credentials()), adapter);
    while (!call.done()) {
      CONCLAVE_RETURN_IF_ERROR(StillStarting("adapter " + adapter.name() + " is not served yet"));
      Pump(kProbePause);
    }
    CONCLAVE_RETURN_IF_ERROR(call.status());
  }
  return absl::OkStatus();
}

// Until it is ready the cluster is all or nothing: who dies now would die again.
absl::Status Up::StillStarting(const std::string& missing) const {
  if (stopping()) return absl::CancelledError("stopped before it was ready");
  for (const Process* const process : All()) {
    if (process->started != Clock::time_point() && process->child == nullptr) {
      return absl::UnavailableError(absl::StrFormat(
          "%s ended before the cluster was ready; its own words are above", process->name));
    }
  }
  if (Clock::now() < ready_by_) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrFormat("the cluster was not ready after %g s (--ready-timeout): %s",
                      std::chrono::duration<double>(options_.ready_wait).count(), missing));
}

void Up::Supervise() {
  while (!stopping()) {
    milliseconds longest = kStopCheck;
    for (const Process* const process : All()) {
      if (!process->again) continue;
      longest = std::min(longest, Left(*process->again));
    }
    Pump(longest);
    RestartWhatIsDue();
  }
}

absl::Status Up::Drain() {
  draining_ = true;
  absl::Status first;
  for (const std::unique_ptr<Process>& router : routers_) AskToEnd(*router);
  const auto await = [this](Process& process) {
    return AwaitEnd(process, Clock::now() + options_.drain_wait);
  };
  for (const std::unique_ptr<Process>& router : routers_) first.Update(await(*router));
  for (const std::unique_ptr<Process>& worker : workers_) AskToEnd(*worker);
  for (const std::unique_ptr<Process>& worker : workers_) first.Update(await(*worker));
  AskToEnd(*scheduler_);
  first.Update(await(*scheduler_));
  return first;
}

// Nobody was told that there is a cluster, so nothing can be lost: no order, and one bound for all.
void Up::EndAll() {
  draining_ = true;
  for (Process* const process : All()) AskToEnd(*process);
  const Clock::time_point deadline = Clock::now() + options_.give_up_wait;
  for (Process* const process : All()) {
    const absl::Status ended = AwaitEnd(*process, deadline);
    if (!ended.ok()) Say(std::string(ended.message()));
  }
}

void Up::AskToEnd(Process& process) {
  process.again.reset();
  if (process.child == nullptr) return;
  process.child->Signal(SIGTERM);
  process.child->Signal(SIGCONT);  // stopped, it would not hear the other
}

absl::Status Up::AwaitEnd(Process& process, Clock::time_point deadline) {
  if (process.child == nullptr) return absl::OkStatus();
  while (!process.child->Reap() && Clock::now() < deadline) Pump(Left(deadline));
  const std::optional<int> end = process.child->Reap();
  Forward(process);
  process.child.reset();
  if (end && (*end == 0 || (!process.listens && IsEndByTerm(*end)))) return absl::OkStatus();
  return absl::UnavailableError(
      end ? absl::StrFormat("%s ended with %s", process.name, DescribeEnd(*end))
          : absl::StrFormat("%s did not end in time and was killed", process.name));
}

absl::Status Up::Launch(Process& process) {
  process.again.reset();
  process.started = Clock::now();
  process.stopped_by = 0;
  process.listens = false;
  CONCLAVE_ASSIGN_OR_RETURN(
      process.child, Child::Start(options_.binaries + "/" + process.program, ArgumentsOf(process)));
  return absl::OkStatus();
}

std::vector<std::string> Up::ArgumentsOf(const Process& process) const {
  const auto or_any = [](const std::string& known) {
    return known.empty() ? std::string("127.0.0.1:0") : known;
  };
  std::vector<std::string> arguments;
  const std::vector<std::string>* more = nullptr;
  if (&process == scheduler_.get()) {
    arguments = {"--listen=" + or_any(process.grpc), "--metrics=" + or_any(process.metrics),
                 "--state=" + state_->path() + "/scheduler"};
    if (Placed()) arguments.push_back(absl::StrFormat("--workers=%d", options_.workers));
    if (!options_.placement.empty()) arguments.push_back("--placement=" + options_.placement);
    more = &options_.scheduler_flags;
  } else if (process.program == kRouterProgram) {
    arguments = RouterArguments(process);
    more = &options_.router_flags;
  } else {
    arguments = WorkerArguments(process);
    more = &options_.worker_flags;
  }
  arguments.insert(arguments.end(), more->begin(), more->end());
  return arguments;
}

std::vector<std::string> Up::WorkerArguments(const Process& worker) const {
  std::vector<std::string> arguments = {"--listen=127.0.0.1:0",
                                        "--metrics=127.0.0.1:0",
                                        "--model=" + options_.model,
                                        "--id=" + worker.name,
                                        "--state=" + state_->path() + "/" + worker.name,
                                        "--scheduler=" + scheduler_->grpc};
  if (Placed()) arguments.push_back("--placed");
  return arguments;
}

std::vector<std::string> Up::RouterArguments(const Process& router) const {
  const bool first = &router == routers_.front().get();
  const auto where = [first](const std::string& known, const std::string& asked) {
    if (asked.empty()) return asked;  // nowhere
    if (!known.empty()) return known;
    return first ? asked : AnyPortOf(asked);
  };
  return {"--listen=" + where(router.grpc, options_.grpc),
          "--metrics=" + where(router.metrics, options_.metrics), "--model=" + options_.model,
          "--scheduler=" + scheduler_->grpc};
}

void Up::Pump(milliseconds longest) {
  const std::vector<Process*> processes = All();
  std::vector<pollfd> fds;
  // Once the supervisor is stopping, the signal has been noticed and would only keep it awake.
  if (!draining_) fds.push_back({.fd = shutdown_->fd(), .events = POLLIN});
  for (Process* const process : processes) {
    if (process->child == nullptr) continue;
    Child& child = *process->child;
    const int exit_fd = child.reaped() ? -1 : child.exit_fd();  // it stays readable
    for (const int fd : {exit_fd, child.out().fd(), child.err().fd()}) {
      if (fd >= 0) fds.push_back({.fd = fd, .events = POLLIN});
    }
  }
  poll(fds.data(), fds.size(), static_cast<int>(longest.count()));
  for (Process* const process : processes) {
    if (process->child == nullptr) continue;
    Forward(*process);
    const bool ended = process->child->Reap().has_value();
    NoticeStop(*process);
    if (ended && !draining_) NoticeEnd(*process);
  }
}

void Up::Forward(Process& process) {
  for (const std::string& line : process.child->out().Take()) {
    if (const auto grpc = ValueOf("grpc", line)) {
      process.grpc = *grpc;
      process.listens = true;
      process.metrics = ValueOf("metrics", line).value_or("-");
      Say(absl::StrFormat("%s has pid %d, grpc=%s metrics=%s", process.name, process.child->pid(),
                          process.grpc, process.metrics));
    } else {
      err_ << "[" << process.name << "] " << line << "\n";
    }
  }
  for (const std::string& line : process.child->err().Take()) {
    err_ << "[" << process.name << "] " << line << "\n";
  }
  err_ << std::flush;
}

void Up::NoticeStop(Process& process) {
  const int stopped_by = process.child->stopped_by();
  if (stopped_by == std::exchange(process.stopped_by, stopped_by)) return;
  if (stopped_by != 0) {
    Say(
        absl::StrFormat("%s is stopped by signal %d and does nothing until it is continued: kill "
                        "-CONT %d",
                        process.name, stopped_by, process.child->pid()));
  } else if (!process.child->reaped()) {
    Say(absl::StrFormat("%s is continued", process.name));
  }
}

void Up::NoticeEnd(Process& process) {
  Forward(process);  // its last words
  const std::string end = DescribeEnd(process.child->Reap().value());
  process.child.reset();
  if (!ready_) {
    Say(absl::StrFormat("%s ended with %s", process.name, end));
    return;
  }
  if (!process.restart) {
    const auto left = std::count_if(workers_.begin(), workers_.end(),
                                    [](const auto& worker) { return worker->child != nullptr; });
    Say(absl::StrFormat(
        "%s ended with %s and is not restarted without --restart; %s", process.name, end,
        left > 0 ? absl::StrFormat("%d %s left", left, left == 1 ? "worker is" : "workers are")
                 : "no worker is left, so requests are refused as UNAVAILABLE"));
    return;
  }
  const bool was_stable = Clock::now() - process.started >= options_.stable_after;
  process.backoff = was_stable || process.backoff.count() == 0
                        ? options_.min_backoff
                        : std::min(process.backoff * 2, options_.max_backoff);
  process.again = Clock::now() + process.backoff;
  Say(absl::StrFormat("%s ended with %s; it is started again in %d ms", process.name, end,
                      process.backoff.count()));
}

void Up::RestartWhatIsDue() {
  for (Process* const process : All()) {
    if (!process->again || Clock::now() < *process->again) continue;
    const absl::Status status = Launch(*process);
    if (status.ok()) continue;
    process->backoff = options_.max_backoff;
    process->again = Clock::now() + process->backoff;
    Say(absl::StrFormat("%s cannot be started: %s", process->name, std::string(status.message())));
  }
}

bool Up::stopping() const { return shutdown_->WaitFor(milliseconds(0)); }

void Up::Say(const std::string& message) { err_ << "[up] " << message << "\n" << std::flush; }

}  // namespace conclave::services
