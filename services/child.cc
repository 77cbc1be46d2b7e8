#include "services/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/str_format.h"

namespace conclave::services {
namespace {

struct Pipe {
  int read = -1;
  int write = -1;
  bool Open() {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) return false;
    read = fds[0];
    write = fds[1];
    return true;
  }
  void Close() {
    if (read >= 0) close(read);
    if (write >= 0) close(write);
  }
};

// Holds signals back while there are two processes with one's handlers: a signal meant for the new
// one waits until it is itself.
class SignalsHeld {
 public:
  SignalsHeld() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsHeld() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;

 private:
  sigset_t before_;
};

// The rest of the child's life before exec, with signals held back. The parent may have threads, so
// only async-signal-safe calls are allowed here.
[[noreturn]] void Become(char* const* argv, pid_t parent, int out, int err) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // it died before the line above
  setpgid(0, 0);
  const int in = open("/dev/null", O_RDONLY);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  close_range(STDERR_FILENO + 1, UINT_MAX, 0);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execv(argv[0], argv);
  constexpr char kMessage[] = "cannot be executed: no such program, or it may not be run\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1);
  _exit(127);
}

// Debian 12's <sys/pidfd.h> declares pidfd_open without C linkage.
int PidfdOpen(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

absl::Status NoProcess(const char* call) {
  return absl::UnavailableError(absl::StrFormat("%s: %s", call, std::strerror(errno)));
}

}  // namespace

Child::Lines::~Lines() {
  if (fd_ >= 0) close(fd_);
}

std::vector<std::string> Child::Lines::Take() {
  std::vector<std::string> lines;
  char buffer[4096];
  for (int reads = 0; fd_ >= 0 && reads < kMaxReads; ++reads) {
    const ssize_t got = read(fd_, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) break;
    if (got <= 0) {
      close(fd_);
      fd_ = -1;
      if (!partial_.empty()) lines.push_back(std::exchange(partial_, {}));
      break;
    }
    for (const char c : std::string_view(buffer, static_cast<size_t>(got))) {
      if (c != '\n') partial_.push_back(c);
      if (c == '\n' || partial_.size() == kMaxLineBytes) {
        lines.push_back(std::exchange(partial_, {}));
      }
    }
  }
  return lines;
}

absl::StatusOr<std::unique_ptr<Child>> Child::Start(const std::string& program,
                                                    const std::vector<std::string>& arguments) {
  std::vector<std::string> words = {program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  Pipe out, err;
  if (!out.Open() || !err.Open()) {
    const absl::Status status = NoProcess("pipe");
    out.Close();
    return status;
  }
  const pid_t parent = getpid();
  pid_t pid = -1;
  {
    const SignalsHeld held;
    pid = fork();
    if (pid == 0) Become(argv.data(), parent, out.write, err.write);
  }
  const int exit_fd = pid > 0 ? PidfdOpen(pid) : -1;
  if (exit_fd < 0) {
    const absl::Status status = NoProcess(pid > 0 ? "pidfd_open" : "fork");
    if (pid > 0) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    out.Close();
    err.Close();
    return status;
  }
  close(out.write);
  close(err.write);
  fcntl(out.read, F_SETFL, O_NONBLOCK);
  fcntl(err.read, F_SETFL, O_NONBLOCK);
  return std::unique_ptr<Child>(new Child(pid, exit_fd, out.read, err.read));
}

Child::~Child() {
  if (!ended_) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(exit_fd_);
}

void Child::Signal(int signal) {
  if (!Reap()) kill(pid_, signal);
}

std::optional<int> Child::Reap() {
  int status = 0;
  while (!ended_ && waitpid(pid_, &status, WNOHANG | WUNTRACED | WCONTINUED) == pid_) {
    stopped_by_ = WIFSTOPPED(status) ? WSTOPSIG(status) : 0;
    if (WIFEXITED(status) || WIFSIGNALED(status)) ended_ = status;
  }
  return ended_;
}

std::string DescribeEnd(int wait_status) {
  if (WIFSIGNALED(wait_status)) return absl::StrFormat("signal %d", WTERMSIG(wait_status));
  return absl::StrFormat("exit code %d", WEXITSTATUS(wait_status));
}

}  // namespace conclave::services
