#include "services/up.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <sstream>
#include <streambuf>
#include <string>
#include <thread>
#include <vector>

#include "tests/testing/wait_for.h"

namespace conclave::services {
namespace {

using conclave::testing::WaitFor;
using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

// What one thread writes and another waits for.
class SharedText : public std::streambuf {
 public:
  void WaitFor(const std::string& part) {
    std::unique_lock lock(mutex_);
    const bool came = changed_.wait_for(lock, std::chrono::seconds(30),
                                        [&] { return text_.find(part) != std::string::npos; });
    EXPECT_TRUE(came) << "\"" << part << "\" did not come, but:\n" << text_;
  }
  std::string text() {
    const std::lock_guard lock(mutex_);
    return text_;
  }

 protected:
  int_type overflow(int_type c) override {
    const char character = traits_type::to_char_type(c);
    xsputn(&character, 1);
    return c;
  }
  std::streamsize xsputn(const char* text, std::streamsize size) override {
    const std::lock_guard lock(mutex_);
    text_.append(text, static_cast<size_t>(size));
    changed_.notify_all();
    return size;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
};

// A supervisor of fakes. It runs on the test's main thread, as children die with their thread.
class UpTest : public ::testing::Test {
 protected:
  UpTest()
      : directory_(::testing::TempDir() + "up_" +
                   ::testing::UnitTest::GetInstance()->current_test_info()->name() + "_" +
                   std::to_string(getpid())) {
    std::filesystem::create_directories(directory_ + "/bin");
    for (const char* const name : {"conclave-router", "conclave-scheduler", "conclave-worker"}) {
      std::filesystem::create_symlink(CONCLAVE_FAKE_DAEMON, directory_ + "/bin/" + name);
    }
    const std::string journal = "--journal=" + directory_ + "/journal";
    options_ = {.binaries = directory_ + "/bin",
                .model = directory_,
                .scheduler_flags = {journal},
                .worker_flags = {journal},
                .router_flags = {journal},
                .min_backoff = milliseconds(10)};
  }
  ~UpTest() override { std::filesystem::remove_all(directory_); }

  // Runs the supervisor, and beside it `script`, which begins when all is ready and after which the
  // supervisor is told to stop.
  absl::Status Run(const std::function<void()>& script) {
    Shutdown shutdown;
    shutdown_ = &shutdown;
    std::thread other([&] {
      out_.WaitFor("ready ");
      script();
      shutdown.Request();
    });
    Up up(options_, out_stream_, err_stream_);
    const absl::Status status = up.Run(shutdown);
    other.join();
    return status;
  }
  // For what never becomes ready.
  absl::Status RunInVain() {
    Shutdown shutdown;
    Up up(options_, out_stream_, err_stream_);
    return up.Run(shutdown);
  }

  // Lines of the journal that begin like this.
  std::vector<std::string> Journal(const std::string& begin) {
    std::ifstream file(directory_ + "/journal");
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) {
      if (line.rfind(begin, 0) == 0) lines.push_back(line);
    }
    return lines;
  }
  // The word at `index` of the journal's `nth` start of a process: 2 is the pid, 3 the address, 6
  // where its metrics are to be.
  std::string Word(const std::string& program, size_t nth, int index) {
    std::istringstream words(Journal(program + " start").at(nth));
    std::string word;
    for (int i = 0; i <= index; ++i) words >> word;
    return word;
  }
  // Where it listens, as the supervisor has said.
  std::string AddressOf(const std::string& name) {
    const std::string log = err_.text(), key = "[up] " + name + " has pid ";
    const size_t begin = log.find("grpc=", log.find(key)) + 5;
    return log.substr(begin, log.find(' ', begin) - begin);
  }
  // Of each start, where its metrics were to be.
  std::vector<std::string> Metrics(const std::string& program) {
    std::vector<std::string> metrics;
    for (size_t i = 0; i < Journal(program + " start").size(); ++i)
      metrics.push_back(Word(program, i, 6));
    return metrics;
  }
  void Kill(const std::string& program) { kill(std::stoi(Word(program, 0, 2)), SIGKILL); }
  void WaitForStarts(const std::string& program, size_t count) {
    EXPECT_TRUE(WaitFor([&] { return Journal(program + " start").size() >= count; },
                        program + " to start again"));
  }

  void KillAndSeeItAgain(const std::string& program) {
    EXPECT_TRUE(Run([&] {
                  Kill(program);
                  WaitForStarts(program, 2);
                }).ok());
    EXPECT_EQ(Word(program, 1, 3), Word(program, 0, 3));
    EXPECT_NE(Word(program, 1, 2), Word(program, 0, 2));
    EXPECT_EQ(Journal("conclave-worker start").size(), 1U);
    EXPECT_THAT(err_.text(), ::testing::HasSubstr("signal 9; it is started again in 10 ms"));
  }

  const std::string directory_;
  Up::Options options_;
  Shutdown* shutdown_ = nullptr;  // of the running Run
  SharedText out_, err_;
  std::ostream out_stream_{&out_}, err_stream_{&err_};
};

TEST_F(UpTest, SaysReadyOnceAndEndsRouterWorkersSchedulerInThisOrder) {
  options_.metrics = "127.0.0.1:4321";
  EXPECT_TRUE(Run([] {}).ok());
  EXPECT_EQ(out_.text(),
            "ready grpc=" + Word("conclave-router", 0, 3) + " http=- metrics=127.0.0.1:4321\n");
  EXPECT_THAT(Journal("conclave-"), ::testing::SizeIs(6));
  std::vector<std::string> ends;
  for (const std::string& line : Journal("conclave-")) {
    if (line.ends_with(" end")) ends.push_back(line);
  }
  EXPECT_THAT(ends,
              ElementsAre("conclave-router end", "conclave-worker end", "conclave-scheduler end"));
  EXPECT_THAT(err_.text(), HasSubstr("[router] hello from conclave-router\n"));
  EXPECT_THAT(err_.text(), HasSubstr("[worker-0] hello from conclave-worker\n"));
  const std::string scheduler = "scheduler=" + Word("conclave-scheduler", 0, 3);
  EXPECT_EQ(Word("conclave-worker", 0, 4), scheduler);
  EXPECT_EQ(Word("conclave-router", 0, 4), scheduler);
}

TEST_F(UpTest, StartsTheSchedulerAgainOnItsPort) { KillAndSeeItAgain("conclave-scheduler"); }

TEST_F(UpTest, StartsTheRouterAgainOnItsPort) { KillAndSeeItAgain("conclave-router"); }

TEST_F(UpTest, NamesSeveralRoutersInTheirOrderAndEndsThemAll) {
  options_.routers = 3;
  options_.metrics = "127.0.0.1:4321";
  EXPECT_TRUE(Run([] {}).ok());
  EXPECT_EQ(Journal("conclave-router start").size(), 3U);
  EXPECT_EQ(Journal("conclave-router end").size(), 3U);
  const std::string first = AddressOf("router-0");
  EXPECT_EQ(out_.text(), "ready grpc=" + first + " http=- metrics=127.0.0.1:4321 routers=" + first +
                             "," + AddressOf("router-1") + "," + AddressOf("router-2") + "\n");
  EXPECT_NE(first, AddressOf("router-1"));
  EXPECT_THAT(
      Metrics("conclave-router"),
      UnorderedElementsAre("metrics=127.0.0.1:4321", "metrics=127.0.0.1:0", "metrics=127.0.0.1:0"));
}

TEST_F(UpTest, StartsEachOfSeveralRoutersAgainOnItsPort) {
  options_.routers = 2;
  EXPECT_TRUE(Run([&] {
                Kill("conclave-router");
                WaitForStarts("conclave-router", 3);
              }).ok());
  EXPECT_EQ(Word("conclave-router", 2, 3), Word("conclave-router", 0, 3));
  EXPECT_NE(Word("conclave-router", 2, 2), Word("conclave-router", 0, 2));
}

TEST_F(UpTest, StartsARouterWithoutMetricsAgain) {
  options_.metrics.clear();
  EXPECT_TRUE(Run([&] {
                Kill("conclave-router");
                WaitForStarts("conclave-router", 2);
              }).ok());
  EXPECT_THAT(Metrics("conclave-router"), ElementsAre("metrics=", "metrics="));
}

TEST_F(UpTest, LeavesADeadWorkerDeadAndSaysSo) {
  EXPECT_TRUE(Run([&] {
                Kill("conclave-worker");
                err_.WaitFor("worker-0 ended with signal 9 and is not restarted without --restart");
              }).ok());
  EXPECT_EQ(Journal("conclave-worker start").size(), 1U);
}

TEST_F(UpTest, SaysHowManyWorkersADeadOneLeaves) {
  options_.workers = 2;
  EXPECT_TRUE(Run([&] {
                Kill("conclave-worker");
                err_.WaitFor("is not restarted without --restart; 1 worker is left");
              }).ok());
}

TEST_F(UpTest, StartsADeadWorkerAgainIfTold) {
  options_.restart_workers = true;
  EXPECT_TRUE(Run([&] {
                Kill("conclave-worker");
                WaitForStarts("conclave-worker", 2);
              }).ok());
}

TEST_F(UpTest, SaysThatAProcessIsStoppedAndThatItGoesOn) {
  EXPECT_TRUE(Run([&] {
                const pid_t worker = std::stoi(Word("conclave-worker", 0, 2));
                kill(worker, SIGSTOP);
                err_.WaitFor("worker-0 is stopped by signal 19");
                kill(worker, SIGCONT);
                err_.WaitFor("worker-0 is continued");
              }).ok());
}

TEST_F(UpTest, EndsAStoppedProcessAsWellAsAnyOther) {
  EXPECT_TRUE(Run([&] {
                kill(std::stoi(Word("conclave-worker", 0, 2)), SIGSTOP);
                err_.WaitFor("worker-0 is stopped");
              }).ok());
  EXPECT_EQ(Journal("conclave-worker end").size(), 1U);
}

TEST_F(UpTest, ARestartThatFailsIsTriedMoreSlowlyEachTime) {
  EXPECT_TRUE(Run([&] {
                std::filesystem::remove(directory_ + "/bin/conclave-router");
                Kill("conclave-router");
                err_.WaitFor("router ended with exit code 127; it is started again in 20 ms");
                err_.WaitFor("router ended with exit code 127; it is started again in 40 ms");
              }).ok());
  EXPECT_THAT(err_.text(), HasSubstr("[router] cannot be executed"));
}

TEST_F(UpTest, FailsWithTheWordsOfWhoDiesBeforeItIsReady) {
  options_.worker_flags.push_back("--misbehave=die");
  const absl::Status status = RunInVain();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("worker-0 ended before the cluster was ready"));
  EXPECT_THAT(err_.text(), HasSubstr("[worker-0] these are my last words\n"));
  EXPECT_THAT(err_.text(), HasSubstr("worker-0 ended with exit code 3"));
  EXPECT_EQ(out_.text(), "");
  EXPECT_EQ(Journal("conclave-scheduler end").size(), 1U);  // the others were ended
}

TEST_F(UpTest, GivesUpOnWhoNeverListens) {
  options_.scheduler_flags.push_back("--misbehave=mute");
  options_.ready_wait = milliseconds(300);
  EXPECT_EQ(RunInVain().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(out_.text(), "");
}

TEST_F(UpTest, EndsWhoStillStartsAtOnceWhenItGivesUp) {
  options_.router_flags.push_back("--misbehave=wait");
  options_.routers = 8;
  options_.ready_wait = milliseconds(1500);
  options_.give_up_wait = milliseconds(60'000);
  const auto began = std::chrono::steady_clock::now();
  const absl::Status status = RunInVain();
  EXPECT_LT(std::chrono::steady_clock::now() - began, options_.give_up_wait);
  EXPECT_EQ(
      std::string(status.message()),
      "the cluster was not ready after 1.5 s (--ready-timeout): router-0 does not listen yet");
  EXPECT_THAT(err_.text(), Not(HasSubstr("ended")));  // by the signal, which is no failure
}

TEST_F(UpTest, KillsWhoDoesNotEndWhenItGivesUp) {
  options_.worker_flags.push_back("--misbehave=stay");
  options_.router_flags.push_back("--misbehave=mute");
  options_.ready_wait = milliseconds(2000);
  options_.give_up_wait = milliseconds(3000);
  EXPECT_EQ(RunInVain().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(err_.text(), HasSubstr("worker-0 did not end in time and was killed"));
  EXPECT_EQ(Journal("conclave-scheduler end").size(), 1U);
}

TEST_F(UpTest, IsNotReadyWhileExpertsHaveNoOwnerThatServes) {
  options_.router_flags.push_back("--misbehave=absent");
  options_.ready_wait = milliseconds(3000);
  const absl::Status status = RunInVain();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("an expert has no owner that serves"));
  EXPECT_EQ(out_.text(), "");
}

TEST_F(UpTest, StoppedBeforeItIsReadyIsNoFailure) {
  options_.scheduler_flags.push_back("--misbehave=mute");
  Shutdown shutdown;
  std::thread other([&] {
    WaitForStarts("conclave-scheduler", 1);
    shutdown.Request();
  });
  Up up(options_, out_stream_, err_stream_);
  EXPECT_TRUE(up.Run(shutdown).ok());
  other.join();
  EXPECT_EQ(out_.text(), "");
}

TEST_F(UpTest, KillsWhoDoesNotEndInTimeAndSaysSo) {
  options_.router_flags.push_back("--misbehave=stay");
  options_.drain_wait = milliseconds(300);
  const absl::Status status = Run([] {});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("router did not end"));
  EXPECT_EQ(Journal("conclave-scheduler end").size(), 1U);
}

TEST_F(UpTest, AStateDirectoryServesOneAtATimeAndIsKept) {
  options_.state = directory_ + "/state";
  EXPECT_TRUE(Run([&] {
                Up second(options_, out_stream_, err_stream_);
                const absl::Status status = second.Run(*shutdown_);
                EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
                EXPECT_THAT(std::string(status.message()), HasSubstr("is in use by another"));
              }).ok());
  EXPECT_EQ(Word("conclave-scheduler", 0, 5), "state=" + options_.state + "/scheduler");
  EXPECT_TRUE(std::filesystem::exists(options_.state));
  EXPECT_TRUE(Run([] {}).ok());  // free again
}

TEST_F(UpTest, WithoutAStateDirectoryATemporaryOneIsRemovedAtTheEnd) {
  std::string state;
  EXPECT_TRUE(Run([&] {
                state = Word("conclave-scheduler", 0, 5).substr(6);
                EXPECT_TRUE(std::filesystem::exists(std::filesystem::path(state).parent_path()));
              }).ok());
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(state).parent_path()));
}

std::vector<std::string> AllLines(Child::Lines& lines) {
  std::vector<std::string> all;
  while (lines.fd() >= 0) {
    for (std::string& line : lines.Take()) all.push_back(std::move(line));
  }
  return all;
}

::testing::AssertionResult HasEnded(Child& child) {
  return WaitFor([&] { return child.Reap().has_value(); }, "the child to end");
}

TEST(Child, GivesItsLinesWholeAndItsEnd) {
  const auto child = Child::Start(
      "/bin/sh", {"-c", "echo one; printf 'two\\nthr'; printf 'ee'; echo bad >&2; exit 7"});
  ASSERT_TRUE(child.ok());
  EXPECT_THAT(AllLines((*child)->out()), ElementsAre("one", "two", "three"));
  EXPECT_THAT(AllLines((*child)->err()), ElementsAre("bad"));
  ASSERT_TRUE(HasEnded(**child));
  EXPECT_EQ(DescribeEnd(*(*child)->Reap()), "exit code 7");
}

// A signal may come before the program has even begun, while the child still has its parent's
// handlers.
TEST(Child, TakesASignalHoweverEarly) {
  const Shutdown shutdown;  // handlers that would swallow it
  for (int i = 0; i < 100; ++i) {
    const auto child = Child::Start("/bin/sleep", {"1000"});
    ASSERT_TRUE(child.ok());
    (*child)->Signal(SIGTERM);
    ASSERT_TRUE(HasEnded(**child));
    EXPECT_EQ(DescribeEnd(*(*child)->Reap()), "signal 15");
  }
}

TEST(Child, CutsLinesThatAreTooLong) {
  const auto child = Child::Start("/bin/sh", {"-c", "head -c 20000 /dev/zero"});
  ASSERT_TRUE(child.ok());
  const std::vector<std::string> lines = AllLines((*child)->out());
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0].size(), Child::kMaxLineBytes);
  EXPECT_EQ(lines[2].size(), 20000 - 2 * Child::kMaxLineBytes);
}

TEST(Child, InheritsNothingButItsThreeFiles) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);  // not close-on-exec
  const auto child = Child::Start("/bin/sh", {"-c", "ls /proc/self/fd | wc -l"});
  ASSERT_TRUE(child.ok());
  // ls itself has the directory open.
  EXPECT_THAT(AllLines((*child)->out()), ElementsAre("4"));
  close(fds[0]);
  close(fds[1]);
}

// Whether the process runs: not gone, and not merely waiting to be reaped.
bool Runs(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return false;
  const char state = line[line.rfind(')') + 2];
  return state != 'Z' && state != 'X';
}

TEST(Child, DiesWithItsParent) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    const auto child = Child::Start("/bin/sleep", {"1000"});
    const pid_t pid = child.ok() ? (*child)->pid() : -1;
    [[maybe_unused]] const ssize_t written = write(fds[1], &pid, sizeof(pid));
    pause();
    _exit(0);
  }
  pid_t child = -1;
  ASSERT_EQ(read(fds[0], &child, sizeof(child)), static_cast<ssize_t>(sizeof(child)));
  ASSERT_GT(child, 0);
  EXPECT_TRUE(Runs(child));
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  EXPECT_TRUE(WaitFor([&] { return !Runs(child); }, "the child to die"));
  close(fds[0]);
  close(fds[1]);
}

}  // namespace
}  // namespace conclave::services
