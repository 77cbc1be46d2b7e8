#pragma once
// A child process whose output is read line by line and which cannot outlive its parent: the kernel
// kills it when the thread that started it ends. In a process group of its own, so that Ctrl-C on a
// terminal reaches the parent alone and the parent decides in which order things end. One thread.

#include <sys/types.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave::services {

class Child {
 public:
  static constexpr size_t kMaxLineBytes = 8192;  // longer lines come in parts
  static constexpr int kMaxReads = 17;           // of 4 KiB: a full pipe and its end

  // An end of a pipe, read without waiting.
  class Lines {
   public:
    explicit Lines(int fd) : fd_(fd) {}
    ~Lines();
    Lines(const Lines&) = delete;
    Lines& operator=(const Lines&) = delete;

    // To poll for reading; -1 once everything was read.
    int fd() const { return fd_; }
    // Whole lines that have arrived, without their ends; at the end of everything also the last
    // one's beginning. At most kMaxReads reads, so that one who writes without end keeps nobody
    // here: poll and ask again.
    std::vector<std::string> Take();

   private:
    int fd_;
    std::string partial_;
  };

  // UNAVAILABLE if there can be no further process. A program that cannot be executed ends at once
  // with code 127 and says so on its stderr. `arguments` without the program's name.
  static absl::StatusOr<std::unique_ptr<Child>> Start(const std::string& program,
                                                      const std::vector<std::string>& arguments);
  // Kills it if it still runs.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  int exit_fd() const { return exit_fd_; }  // readable once it has ended
  Lines& out() { return out_; }
  Lines& err() { return err_; }

  void Signal(int signal);
  // What wait() says of it once it has ended; never waits.
  std::optional<int> Reap();
  // Whether Reap has said so.
  bool reaped() const { return ended_.has_value(); }
  // The signal that stopped it, 0 while it is not stopped; as of the last Reap.
  int stopped_by() const { return stopped_by_; }

 private:
  Child(pid_t pid, int exit_fd, int out_fd, int err_fd)
      : pid_(pid), exit_fd_(exit_fd), out_(out_fd), err_(err_fd) {}

  pid_t pid_;
  int exit_fd_;
  Lines out_;
  Lines err_;
  std::optional<int> ended_;
  int stopped_by_ = 0;
};

// "exit code 1", "signal 9".
std::string DescribeEnd(int wait_status);

}  // namespace conclave::services
