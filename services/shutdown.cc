#include "services/shutdown.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "scheduler/check.h"

namespace conclave::services {
namespace {

// A signal handler has no other way to reach its object. The pipe is never read, so it stays
// readable for all waiters.
std::atomic<int> g_read_fd{-1};
std::atomic<int> g_write_fd{-1};
std::atomic<int> g_signals{0};  // the first of them drains; starting, one is counted already

void OnSignal(int signal) {
  if (g_signals.fetch_add(1) > 0) _exit(128 + signal);
  const int saved_errno = errno;
  [[maybe_unused]] const ssize_t written = write(g_write_fd.load(), "s", 1);
  errno = saved_errno;
}

void SetHandler(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

}  // namespace

Shutdown::Shutdown(Phase phase) {
  CONCLAVE_CHECK(g_read_fd.load() == -1);
  int fds[2];
  CONCLAVE_CHECK(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
  g_read_fd = fds[0];
  g_write_fd = fds[1];
  g_signals = phase == Phase::kStarting ? 1 : 0;
  SetHandler(OnSignal);
}

Shutdown::~Shutdown() {
  SetHandler(SIG_DFL);
  close(g_read_fd.exchange(-1));
  close(g_write_fd.exchange(-1));
}

void Shutdown::Started() { g_signals = 0; }

void Shutdown::Wait() {
  while (!WaitFor(std::chrono::hours(1))) {
  }
}

bool Shutdown::WaitFor(std::chrono::milliseconds timeout) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd poll_fd = {.fd = g_read_fd.load(), .events = POLLIN};
    const int ready = poll(&poll_fd, 1, left.count() > 0 ? static_cast<int>(left.count()) : 0);
    if (ready > 0) return true;
    if (ready == 0) return false;
  }
}

void Shutdown::Request() {
  [[maybe_unused]] const ssize_t written = write(g_write_fd.load(), "s", 1);
}

int Shutdown::fd() const { return g_read_fd.load(); }

}  // namespace conclave::services
