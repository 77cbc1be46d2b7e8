// faulty-proxy TARGET...: a proxy that can do damage before each of these addresses, at which
// workers take frames. Prints `listening 0=HOST:PORT 1=HOST:PORT ...`; then every line of standard
// input is one command, a JSON object, answered by one line: the counts of its proxy. Ends with its
// input.
//
//   {"proxy":0,"do":"set","way":"there","corrupt":0.01}   also delay_ms, bytes_per_second,
//                                                         blackhole; "client":"w1": of its alone
//   {"proxy":0,"do":"truncate","way":"back","after":100}
//   {"proxy":0,"do":"reorder"} {"proxy":0,"do":"reset"} {"proxy":0,"do":"count"}

#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "services/exchange/hello.h"
#include "tests/testing/faulty_proxy.h"
#include "worker/experts/frame.h"

namespace conclave::services {
namespace {

using nlohmann::json;
using testing::FaultyProxy;
using Way = FaultyProxy::Way;

// A hello, which says what frames may be, then frames. On one proxy's thread.
class Units {
 public:
  size_t SizeOf(uint64_t before, std::span<const std::byte> bytes) {
    if (before == 0) return kHelloBytes;
    if (!limits_ || bytes.size() < worker::kFrameHeaderBytes) return 0;
    const auto header = worker::ParseHeader(bytes.first<worker::kFrameHeaderBytes>(), *limits_);
    // What is no frame cannot be told apart from the next: it is handed on as it comes.
    return header.ok() ? worker::kFrameHeaderBytes + header->body_bytes : bytes.size();
  }

  std::string ClientOf(std::span<const std::byte> unit) {
    Hello hello;
    if (ParseHello(unit.first<kHelloBytes>(), hello) != Verdict::kWelcome) return "";
    limits_ = hello.limits;
    return hello.from_id;
  }

 private:
  std::optional<worker::FrameLimits> limits_;  // all workers of a cluster have the same
};

std::unique_ptr<FaultyProxy> MakeProxy(const std::string& target, uint64_t seed) {
  const auto units = std::make_shared<Units>();
  return std::make_unique<FaultyProxy>(
      target, seed,
      [units](uint64_t before, std::span<const std::byte> bytes) {
        return units->SizeOf(before, bytes);
      },
      [units](std::span<const std::byte> unit) { return units->ClientOf(unit); });
}

Way WayOf(const json& command) {
  return command.at("way").get<std::string>() == "there" ? Way::kThere : Way::kBack;
}

FaultyProxy::Faults FaultsOf(const json& command) {
  return {.delay = std::chrono::milliseconds(command.value("delay_ms", 0)),
          .bytes_per_second = command.value("bytes_per_second", uint64_t{0}),
          .corrupt = command.value("corrupt", 0.0),
          .blackhole = command.value("blackhole", false)};
}

json CountsOf(const FaultyProxy& proxy) {
  const FaultyProxy::Counts& counts = proxy.counts();
  return {{"connections", counts.connections.load()},
          {"passed", counts.passed.load()},
          {"delayed", counts.delayed.load()},
          {"throttled", counts.throttled.load()},
          {"corrupted", counts.corrupted.load()},
          {"truncated", counts.truncated.load()},
          {"swallowed", counts.swallowed.load()},
          {"reordered", counts.reordered.load()},
          {"resets", counts.resets.load()}};
}

void Do(const json& command, FaultyProxy& proxy) {
  const auto what = command.at("do").get<std::string>();
  if (what == "set" && command.contains("client")) {
    proxy.SetOf(command.at("client").get<std::string>(), WayOf(command), FaultsOf(command));
  } else if (what == "set") {
    proxy.Set(WayOf(command), FaultsOf(command));
  } else if (what == "truncate") {
    proxy.Truncate(WayOf(command), command.at("after").get<size_t>());
  } else if (what == "reorder") {
    proxy.Reorder();
  } else if (what == "reset") {
    proxy.Reset();
  }
}

int Run(std::span<char*> targets) {
  std::vector<std::unique_ptr<FaultyProxy>> proxies;
  for (const char* target : targets) proxies.push_back(MakeProxy(target, proxies.size() + 1));
  std::string where = "listening";
  for (size_t i = 0; i < proxies.size(); ++i) {
    where += " " + std::to_string(i) + "=" + proxies[i]->address();
  }
  std::cout << where << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const json command = json::parse(line);
    FaultyProxy& proxy = *proxies.at(command.at("proxy").get<size_t>());
    Do(command, proxy);
    std::cout << CountsOf(proxy).dump() << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace conclave::services

int main(int argc, char** argv) {
  try {
    return conclave::services::Run(std::span(argv, static_cast<size_t>(argc)).subspan(1));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "faulty-proxy: %s\n", error.what());
    return 1;
  }
}
