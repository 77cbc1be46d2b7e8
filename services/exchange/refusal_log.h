#pragma once
// Tells in words which hellos were refused, here or by a peer: who, why, what was found and what
// expected. Each peer and reason once, however often it tries, until it is welcome. On the
// transport's thread.

#include <cstddef>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <tuple>

#include "services/exchange/hello.h"
#include "worker/experts/transport.h"

namespace conclave::services {

class RefusalLog {
 public:
  // passing: as a rule it mends itself, as when two workers learn of each other one after the
  // other.
  using Tell = std::function<void(bool passing, const std::string& what)>;

  // At most so many refusals are remembered, and so told; a last line says when that is over. Null:
  // nobody is told.
  RefusalLog(Tell tell, size_t limit) : tell_(std::move(tell)), limit_(limit) {}

  // The verdict on one who said `hello`, if it could be read, from an address; `rings`: shared
  // memory is what is taken there.
  void Judged(const Hello& hello, Verdict verdict, const Hello& self, const std::string& from,
              bool rings);
  // One was closed before it could say anything.
  void KeptOut(const std::string& from);
  // A peer's verdict on what was `sent` to it.
  void Answered(const worker::Peer& peer, Verdict verdict, const Hello& sent);
  // It has not answered `attempts` times; `rings`: it is asked through shared memory alone.
  void Unanswered(const worker::Peer& peer, int attempts, bool rings);

 private:
  enum class Side : uint8_t { kHere, kThere };
  // Who, whose verdict it is, and the verdict: none is silence.
  using Key = std::tuple<std::string, Side, std::optional<Verdict>>;

  void Once(const Key& key, const std::string& what);
  void Forget(const std::string& who, Side side);

  const Tell tell_;
  const size_t limit_;
  std::set<Key> told_;
  bool full_ = false;
};

}  // namespace conclave::services
