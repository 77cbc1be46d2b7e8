#pragma once
// Several workers in one process: a frame is handed to its receiver on the sender's thread, with
// the same checks that a socket's reader makes. For tests and measurements; it loses, holds and
// cuts what it is told to.
//
// Threads: any. The network outlives its transports.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "worker/experts/transport.h"

namespace conclave::worker {

class InProcessNetwork {
 public:
  // What becomes of a frame.
  enum class Fate : uint8_t { kDeliver, kDrop, kHold, kCorrupt };

  explicit InProcessNetwork(const FrameLimits& limits) : limits_(limits) {}

  // A worker's end. One of an id that is already there takes its place: its process was restarted.
  std::unique_ptr<Transport> Join(const std::string& id, uint64_t incarnation);

  // No frame passes between the two and both hear of it; true: again.
  void SetConnected(const std::string& a, const std::string& b, bool connected);
  // How far the two are from each other; 0 at the start.
  void SetDistance(const std::string& a, const std::string& b, int32_t distance);
  // Asked for every frame, with no lock held. At the start everything is delivered.
  using Judge =
      std::function<Fate(const std::string& from, const std::string& to, const FrameHeader&)>;
  void SetJudge(Judge judge);
  // Delivers what was held, in order.
  void DeliverHeld();

 private:
  friend class InProcessTransport;
  class End;
  struct Held {
    std::string from, to;
    FrameHeader header;
    FrameBody body;
  };

  std::vector<std::shared_ptr<End>> Ends() const;
  std::shared_ptr<End> Find(const std::string& id) const;
  bool Reaches(const End& from, const Peer& to) const;
  int32_t Distance(const std::string& a, const std::string& b) const;
  void Leave(const std::shared_ptr<End>& end);
  void TellState(const std::string& whom, const std::string& of, bool up);
  void Pass(const std::string& from, const std::string& to, const FrameHeader& header,
            FrameBody body);
  void Deliver(const std::string& from, const std::string& to, const FrameHeaderBytes& bytes,
               FrameBody body);

  const FrameLimits limits_;
  mutable std::mutex mutex_;  // guards what follows
  std::vector<std::shared_ptr<End>> ends_;
  std::vector<std::pair<std::string, std::string>> cut_;
  std::map<std::pair<std::string, std::string>, int32_t> distances_;  // the smaller id first
  Judge judge_;
  std::vector<Held> held_;
};

}  // namespace conclave::worker
