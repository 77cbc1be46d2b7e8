// Stands in for any of the three processes, by the name it is started under: for tests of the
// supervisor. It listens, is healthy, knows of two ready workers and of three routers, and writes
// down in --journal when it starts and when it is told to end. --misbehave: die (at once), mute
// (never say where it listens), stay (ignore SIGTERM), wait (end at SIGTERM as a process does that
// still starts), absent (be of a placement whose one owner is not there).

#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

#include "services/flags.h"
#include "services/shutdown.h"
#include "tests/services/cli/fake_router.h"

namespace {

// One write per line, so that lines of several processes do not mix.
void Write(const std::string& journal, const std::string& line) {
  std::ofstream(journal, std::ios::app) << line + "\n" << std::flush;
}

}  // namespace

int main(int argc, char** argv) {
  using conclave::services::Flags;
  const std::string name = std::filesystem::path(argv[0]).filename();
  std::string listen, metrics, model, state, scheduler, id, journal, misbehave, workers;
  bool placed = false;
  Flags flags(name, "A fake.");
  flags.Add({"listen", &listen, "", ""});
  flags.Add({"metrics", &metrics, "", ""});
  flags.Add({"model", &model, "", ""});
  flags.Add({"state", &state, "", ""});
  flags.Add({"scheduler", &scheduler, "", ""});
  flags.Add({"id", &id, "", ""});
  flags.Add({"workers", &workers, "", ""});
  flags.Add({"placed", &placed, "", ""});
  flags.Add({"journal", &journal, "", ""});
  flags.Add({"misbehave", &misbehave, "", ""});
  if (const auto code = flags.ParseOrExit(argc, argv)) return *code;
  conclave::services::Shutdown shutdown;
  if (misbehave == "die") {
    std::cerr << "these are my last words\n";
    return 3;
  }
  if (misbehave == "wait") {
    Write(journal, name + " start");
    shutdown.Wait();
    return 128 + SIGTERM;
  }
  grpc::EnableDefaultHealthCheckService(true);
  conclave::testing::FakeRouter server(listen);
  for (int i = 0; i < 2; ++i)
    server.status.add_workers()->set_state(conclave::v1::WORKER_STATE_READY);
  for (int i = 0; i < 3; ++i)
    server.status.add_routers()->set_state(conclave::v1::ROUTER_STATE_SERVING);
  if (misbehave == "absent") {
    server.residency.set_epoch(3);
    server.residency.add_workers("gone");
    server.residency.add_layers()->add_owners(0);
  }
  Write(journal, name + " start " + std::to_string(getpid()) + " " + server.address() +
                     " scheduler=" + scheduler + " state=" + state + " metrics=" + metrics);
  if (misbehave != "mute") {
    std::cout << "listening grpc=" << server.address() << " metrics=" << metrics << std::endl;
  }
  std::cerr << "hello from " << name << "\n";
  shutdown.Wait();
  Write(journal, name + " end");
  if (misbehave == "stay") pause();
  return 0;
}
