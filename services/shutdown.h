#pragma once
// SIGTERM and SIGINT as something an ordinary thread waits for. The first asks the process to
// drain; a second one ends it at once, however busy or stuck it is. One per process, made before
// other threads matter.

#include <chrono>

namespace conclave::services {

class Shutdown {
 public:
  Shutdown();   // takes over the two signals
  ~Shutdown();  // gives them back
  Shutdown(const Shutdown&) = delete;
  Shutdown& operator=(const Shutdown&) = delete;

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
