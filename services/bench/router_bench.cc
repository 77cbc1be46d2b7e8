// conclave-router-bench: what a router costs. conclave-router runs in a process of its own and
// serves this one's clients (open loop, Poisson) from this one's null worker, which computes
// nothing; beside it the same clients are served by a gRPC server directly, which is one hop.
// Prints one line of key=value each: costs, in the router's own CPU time; latencies at half that
// load; memory with many open streams.
//
// Where it sleeps it gives what is measured its time, or asks a router that starts again: a look
// every few milliseconds costs the router nothing that is measured.

#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "scheduler/check.h"
#include "services/bench/direct.h"
#include "services/bench/load.h"
#include "services/bench/null_worker.h"
#include "services/child.h"
#include "services/flags.h"
#include "services/log.h"

namespace conclave::services::bench {
namespace {

struct Options {
  std::string router;
  std::string model = "deploy/model/conclave-tiny";
  uint32_t vocab_size = 4096;
  double requests = 2000;
  uint32_t tokens = 10;
  double seconds = 3;
  int32_t rounds = 3;
  int32_t pace_us = 10'000;
  int32_t tick_us = 1000;
  int32_t connections = 4;
  int32_t streams = 10'000;
  std::string only;
  std::vector<std::string> router_flags;
};

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "conclave-router-bench: %s\n", why.c_str());
  std::exit(1);
}

// conclave-router with limits that do not matter here.
class Router {
 public:
  Router(const Options& options, const std::string& worker) {
    std::vector<std::string> flags = {
        "--listen=127.0.0.1:0",         "--model=" + options.model,
        "--worker=" + worker,           "--metrics=",
        "--max-requests=65536",         "--max-waiting=65536",
        "--worker-requests=65536",      "--max-total-tokens=1000000000000",
        "--worker-tokens=1000000000000"};
    flags.insert(flags.end(), options.router_flags.begin(), options.router_flags.end());
    auto child = Child::Start(options.router, flags);
    if (!child.ok()) Fail(std::string(child.status().message()));
    child_ = *std::move(child);
    while (address_.empty()) {
      pollfd waits = {.fd = child_->out().fd(), .events = POLLIN};
      if (poll(&waits, 1, 30'000) != 1) Fail("the router did not start");
      for (const std::string& line : child_->out().Take()) {
        constexpr char kAddress[] = "grpc=";
        const size_t begin = line.find(kAddress);
        if (begin == line.npos) continue;
        const size_t from = begin + sizeof kAddress - 1;
        address_ = line.substr(from, line.find(' ', from) - from);
      }
      if (child_->Reap()) Fail("the router ended; does it say why without this program?");
    }
    CONCLAVE_CHECK(clock_getcpuclockid(child_->pid(), &clock_) == 0);
  }

  const std::string& address() const { return address_; }
  double cpu_seconds() const {
    timespec time = {};
    CONCLAVE_CHECK(clock_gettime(clock_, &time) == 0);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }
  // In MiB.
  double resident() const {
    std::ifstream file("/proc/" + std::to_string(child_->pid()) + "/statm");
    int64_t all = 0, resident = 0;
    file >> all >> resident;
    return static_cast<double>(resident * sysconf(_SC_PAGESIZE)) / (1 << 20);
  }

 private:
  std::unique_ptr<Child> child_;
  std::string address_;
  clockid_t clock_ = {};
};

double Percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  const auto rank = static_cast<size_t>(static_cast<double>(values.size()) * percent / 100);
  const auto at = values.begin() + static_cast<ptrdiff_t>(std::min(rank, values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}
double Median(const std::vector<double>& values) { return Percentile(values, 50); }

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        direct_(std::chrono::microseconds(options.tick_us)),
        worker_(
            {.tick = std::chrono::microseconds(options.tick_us), .vocab_size = options.vocab_size}),
        router_(options, worker_.address()),
        by_router_(router_.address(), options.connections),
        by_hop_(direct_.address(), options.connections) {
    const auto probe = std::make_shared<Flights>(1, 1);
    worker_.Serve(probe, {});
    direct_.Serve(probe, {});
    const auto until = Clock::now() + std::chrono::seconds(30);
    while (!by_router_.Try()) {
      if (Clock::now() > until) Fail("the router serves nothing");
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    CONCLAVE_CHECK(by_hop_.Try());
    Serve(by_router_, options.requests / 2, options.tokens, 1);  // warm
    Serve(by_hop_, options.requests / 2, options.tokens, 1);
  }

  // CPU time of the router at the load, and how it divides: at the same tokens a second with a
  // tenth of the requests.
  void MeasureCost() {
    std::vector<double> cores, request_us, token_us, rates, message_rates;
    for (int round = 0; round < options_.rounds; ++round) {
      const Cost whole = CostOf(options_.requests, options_.tokens);
      const Cost long_ones = CostOf(options_.requests / 10, options_.tokens * 10);
      cores.push_back(whole.cpu / whole.seconds);
      rates.push_back(whole.requests / whole.cpu);
      message_rates.push_back(whole.messages / whole.cpu);
      // Two equations: cpu = requests * r + messages * m.
      const double determinant =
          whole.requests * long_ones.messages - long_ones.requests * whole.messages;
      request_us.push_back(1e6 * (whole.cpu * long_ones.messages - long_ones.cpu * whole.messages) /
                           determinant);
      token_us.push_back(1e6 * (whole.requests * long_ones.cpu - long_ones.requests * whole.cpu) /
                         determinant);
    }
    std::printf(
        "cost requests_per_s=%.0f tokens_each=%u router_cores=%.3f requests_per_core_s=%.0f "
        "messages_per_core_s=%.0f request_us=%.1f message_us=%.2f\n",
        options_.requests, options_.tokens, Median(cores), Median(rates), Median(message_rates),
        Median(request_us), Median(token_us));
    std::fflush(stdout);
  }

  // Through the router, beside the hop alone; what the router added is what there is above the
  // median hop.
  void MeasureLatency() {
    Quantiles first, token;
    const double rate = options_.requests / 2;
    for (int round = 0; round < options_.rounds; ++round) {
      const auto hop = Serve(by_hop_, rate, options_.tokens, options_.seconds);
      const auto routed = Serve(by_router_, rate, options_.tokens, options_.seconds);
      first.Add(hop->FirstTokens(), routed->FirstTokens());
      token.Add(hop->Tokens(), routed->Tokens());
    }
    first.Print("first_token", rate);
    token.Print("token", rate);
  }

  void MeasureStreams() {
    const double before = router_.resident();
    const auto count = static_cast<uint64_t>(options_.streams);
    const auto flights = std::make_shared<Flights>(count, 1000);
    worker_.Serve(flights, std::chrono::seconds(5));
    by_router_.Begin(flights, options_.requests / 2, 1);
    const auto until = Clock::now() + std::chrono::seconds(30);
    while (flights->FirstTokens().size() < count && Clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    std::this_thread::sleep_for(std::chrono::seconds(5));  // another token each
    const double resident = router_.resident();
    const Load::Counts counts = by_router_.counts();
    by_router_.Cancel();
    by_router_.Finish();
    if (!counts.why.empty()) std::fprintf(stderr, "%s\n", counts.why.c_str());
    std::printf("streams open=%zu resident_mib=%.1f before_mib=%.1f kib_each=%.1f\n",
                static_cast<size_t>(counts.open), resident, before,
                (resident - before) * 1024 / static_cast<double>(options_.streams));
    std::fflush(stdout);
  }

 private:
  struct Cost {
    double seconds, cpu, requests, messages;
  };
  struct Quantiles {
    std::vector<double> hop_p50, hop_p99, routed_p50, routed_p99, added_p50, added_p99;

    void Add(const std::vector<double>& hop, const std::vector<double>& routed) {
      hop_p50.push_back(Median(hop));
      hop_p99.push_back(Percentile(hop, 99));
      routed_p50.push_back(Median(routed));
      routed_p99.push_back(Percentile(routed, 99));
      added_p50.push_back(routed_p50.back() - hop_p50.back());
      added_p99.push_back(routed_p99.back() - hop_p50.back());
    }
    void Print(const char* what, double rate) const {
      std::printf(
          "latency of=%s requests_per_s=%.0f hop_p50_us=%.0f hop_p99_us=%.0f routed_p50_us=%.0f "
          "routed_p99_us=%.0f added_p50_us=%.0f added_p99_us=%.0f added_in_hops=%.2f\n",
          what, rate, Median(hop_p50), Median(hop_p99), Median(routed_p50), Median(routed_p99),
          Median(added_p50), Median(added_p99), Median(added_p50) / Median(hop_p50));
      std::fflush(stdout);
    }
  };

  std::shared_ptr<Flights> Serve(Load& load, double rate, uint32_t tokens, double seconds) {
    const auto flights = std::make_shared<Flights>(static_cast<size_t>(rate * seconds), tokens);
    const std::chrono::microseconds pace(options_.pace_us);
    worker_.Serve(flights, pace);
    direct_.Serve(flights, pace);
    load.Begin(flights, rate, ++runs_);
    last_ = load.Finish();
    if (last_.failed > 0) Fail("requests failed: " + last_.why);
    return flights;
  }
  Cost CostOf(double rate, uint32_t tokens) {
    const auto begin = Clock::now();
    const double cpu = router_.cpu_seconds();
    Serve(by_router_, rate, tokens, options_.seconds);
    const std::chrono::duration<double> took = Clock::now() - begin;
    return {took.count(), router_.cpu_seconds() - cpu, static_cast<double>(last_.served),
            static_cast<double>(last_.messages)};
  }

  const Options options_;
  Direct direct_;
  NullWorker worker_;
  Router router_;
  Load by_router_;
  Load by_hop_;
  Load::Counts last_;
  uint64_t runs_ = 0;
};

int Main(int argc, char** argv) {
  Options options;
  Flags flags("conclave-router-bench", "What a router costs, beside one hop of gRPC.");
  const std::string self = argv[0];
  options.router = self.substr(0, self.rfind('/') + 1) + "conclave-router";
  flags.Add({"router", &options.router, "FILE", "conclave-router"});
  flags.Add({"model", &options.model, "DIR", "whose tokenizer it uses"});
  flags.Add({"vocab-size", &options.vocab_size, "N", "of the model"});
  flags.Add(
      {"requests", &options.requests, "N", "a second; latency is taken at half of it", 1, 1e6});
  flags.Add({"tokens", &options.tokens, "N", "of each request", 1, 10'000});
  flags.Add({"seconds", &options.seconds, "S", "of each run", 0.1, 600});
  flags.Add({"rounds", &options.rounds, "N", "of which the median counts", 1, 1000});
  flags.Add({"pace-us", &options.pace_us, "US", "from token to token of a request", 0, 1e7});
  flags.Add({"tick-us", &options.tick_us, "US", "between the worker's messages", 10, 1e6});
  flags.Add({"connections", &options.connections, "N", "of the clients", 1, 64});
  flags.Add({"streams", &options.streams, "N", "open at once, for the memory of them", 1, 60'000});
  flags.Add({"router-flag", &options.router_flags, "FLAG",
             "of conclave-router, with its dashes; may be repeated"});
  flags.Add({"only", &options.only, "PART", "cost, latency or streams; empty: all"});
  if (const std::optional<int> exit_code = flags.ParseOrExit(argc, argv)) return *exit_code;
  Bench bench(options);
  const auto wanted = [&](const char* part) {
    return options.only.empty() || options.only == part;
  };
  if (wanted("cost")) bench.MeasureCost();
  if (wanted("latency")) bench.MeasureLatency();
  if (wanted("streams")) bench.MeasureStreams();
  return 0;
}

}  // namespace
}  // namespace conclave::services::bench

int main(int argc, char** argv) { return conclave::services::bench::Main(argc, argv); }
