#pragma once
// SIGTERM and SIGINT as something an ordinary thread waits for. The first asks the process to
// drain; a second one ends it at once, however busy or stuck it is, and so does the first while
// there is nothing to drain yet. One per process, made before other threads matter.

#include <chrono>
#include <cstdint>

namespace conclave::services {

class Shutdown {
 public:
  enum class Phase : uint8_t { kStarting, kStarted };
  explicit Shutdown(Phase phase = Phase::kStarted);  // takes over the two signals
  ~Shutdown();                                       // gives them back
  Shutdown(const Shutdown&) = delete;
  Shutdown& operator=(const Shutdown&) = delete;

  // From here on there is something to drain. Until then a signal ends the process with 128 + its
  // number: by itself, as nobody ends the first process of a container by a signal it does not
  // handle.
  void Started();
  // Blocks until a signal or Request; returns at once from then on.
  void Wait();
  // The same with a bound; false if the time passed first.
  bool WaitFor(std::chrono::milliseconds timeout);
  // Ends the waiting without a signal. Any thread.
  void Request();
  // Readable once shutdown is asked for; for a loop that polls other things as well.
  int fd() const;
};

}  // namespace conclave::services
