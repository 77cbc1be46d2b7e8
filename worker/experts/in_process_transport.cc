#include "worker/experts/in_process_transport.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <new>
#include <utility>

#include "scheduler/check.h"

namespace conclave::worker {
namespace {

constexpr auto kAlignment = std::align_val_t{kFrameAlignment};

class Heap final : public FrameBody::Owner {
 public:
  static FrameBody Take(size_t size) {
    static const auto heap = std::make_shared<Heap>();
    return {heap, static_cast<std::byte*>(::operator new(size, kAlignment)), size};
  }
  void Release(std::byte* data, size_t) override { ::operator delete(data, kAlignment); }
};

}  // namespace

class InProcessNetwork::End {
 public:
  End(std::string id, uint64_t incarnation) : id_(std::move(id)), incarnation_(incarnation) {}

  const std::string& id() const { return id_; }
  uint64_t incarnation() const { return incarnation_; }

  void Start(FrameSink* sink) {
    const std::lock_guard lock(mutex_);
    sink_ = sink;
  }
  void Stop() {
    std::unique_lock lock(mutex_);
    sink_ = nullptr;
    idle_.wait(lock, [this] { return calls_ == 0; });
  }
  bool started() const {
    const std::lock_guard lock(mutex_);
    return sink_ != nullptr;
  }

  PeerIndex IndexOf(const std::string& id, uint64_t incarnation) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(peers_.begin(), peers_.end(), [&](const Peer& peer) {
      return peer.id == id && peer.incarnation == incarnation;
    });
    if (found != peers_.end()) return static_cast<PeerIndex>(found - peers_.begin());
    peers_.push_back({.id = id, .incarnation = incarnation});
    return static_cast<PeerIndex>(peers_.size() - 1);
  }
  Peer PeerOf(PeerIndex index) const {
    const std::lock_guard lock(mutex_);
    CONCLAVE_CHECK(index >= 0 && static_cast<size_t>(index) < peers_.size());
    return peers_[static_cast<size_t>(index)];
  }

  // Calls the sink unless the end has stopped; no lock is held meanwhile.
  template <typename Call>
  bool Tell(Call call) {
    FrameSink* sink = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (sink_ == nullptr) return false;
      sink = sink_;
      ++calls_;
    }
    call(*sink);
    const std::lock_guard lock(mutex_);
    if (--calls_ == 0) idle_.notify_all();
    return true;
  }

  template <typename Change>
  void Count(Change change) {
    const std::lock_guard lock(mutex_);
    change(stats_);
  }
  Transport::Stats stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  const std::string id_;
  const uint64_t incarnation_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable idle_;
  FrameSink* sink_ = nullptr;
  int32_t calls_ = 0;
  std::vector<Peer> peers_;
  Transport::Stats stats_;
};

// A worker's face to the network.
class InProcessTransport final : public Transport {
 public:
  InProcessTransport(InProcessNetwork& network, std::shared_ptr<InProcessNetwork::End> end)
      : network_(network), end_(std::move(end)) {}
  ~InProcessTransport() override { Stop(); }

  void Start(FrameSink* sink) override { end_->Start(sink); }
  void Stop() override { network_.Leave(end_); }

  PeerIndex Connect(const Peer& peer) override { return end_->IndexOf(peer.id, peer.incarnation); }
  void Forget(PeerIndex) override {}
  bool up(PeerIndex peer) const override {
    const Peer known = end_->PeerOf(peer);
    return network_.Reaches(*end_, known);
  }
  int32_t distance(PeerIndex peer) const override {
    return network_.Distance(end_->id(), end_->PeerOf(peer).id);
  }

  std::optional<FrameBody> Reserve(PeerIndex to, size_t size) override {
    if (!up(to)) return std::nullopt;
    return Heap::Take(size);
  }
  bool Send(PeerIndex to, FrameHeader header, FrameBody body) override {
    const Peer peer = end_->PeerOf(to);
    if (!network_.Reaches(*end_, peer)) return false;
    header.from = end_->incarnation();
    header.to = peer.incarnation;
    header.body_bytes = body.bytes().size();
    end_->Count([&](Stats& stats) {
      ++stats.frames_sent;
      stats.bytes_sent += kFrameHeaderBytes + header.body_bytes;
    });
    network_.Pass(end_->id(), peer.id, header, std::move(body));
    return true;
  }
  Stats stats() const override { return end_->stats(); }

 private:
  InProcessNetwork& network_;
  const std::shared_ptr<InProcessNetwork::End> end_;
};

std::unique_ptr<Transport> InProcessNetwork::Join(const std::string& id, uint64_t incarnation) {
  const auto end = std::make_shared<End>(id, incarnation);
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(ends_, [&](const auto& other) { return other->id() == id; });
    ends_.push_back(end);
  }
  return std::make_unique<InProcessTransport>(*this, end);
}

void InProcessNetwork::Leave(const std::shared_ptr<End>& end) {
  {
    const std::lock_guard lock(mutex_);
    if (std::erase(ends_, end) == 0) return;
  }
  end->Stop();
  for (const auto& other : Ends()) {
    const PeerIndex index = other->IndexOf(end->id(), end->incarnation());
    other->Tell([&](FrameSink& sink) { sink.OnDown(index); });
  }
}

std::vector<std::shared_ptr<InProcessNetwork::End>> InProcessNetwork::Ends() const {
  const std::lock_guard lock(mutex_);
  return ends_;
}

std::shared_ptr<InProcessNetwork::End> InProcessNetwork::Find(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(ends_.begin(), ends_.end(), [&](const auto& end) { return end->id() == id; });
  return found == ends_.end() ? nullptr : *found;
}

bool InProcessNetwork::Reaches(const End& from, const Peer& to) const {
  const std::shared_ptr<End> end = Find(to.id);
  if (end == nullptr || end->incarnation() != to.incarnation || !end->started()) return false;
  const std::lock_guard lock(mutex_);
  return std::none_of(cut_.begin(), cut_.end(), [&](const auto& cut) {
    return (cut.first == from.id() && cut.second == to.id) ||
           (cut.first == to.id && cut.second == from.id());
  });
}

void InProcessNetwork::SetConnected(const std::string& a, const std::string& b, bool connected) {
  {
    const std::lock_guard lock(mutex_);
    std::erase(cut_, std::pair(a, b));
    if (!connected) cut_.emplace_back(a, b);
  }
  TellState(a, b, connected);
  TellState(b, a, connected);
}

void InProcessNetwork::SetDistance(const std::string& a, const std::string& b, int32_t distance) {
  const std::lock_guard lock(mutex_);
  distances_[std::minmax(a, b)] = distance;
}

int32_t InProcessNetwork::Distance(const std::string& a, const std::string& b) const {
  const std::lock_guard lock(mutex_);
  const auto found = distances_.find(std::minmax(a, b));
  return found == distances_.end() ? 0 : found->second;
}

void InProcessNetwork::TellState(const std::string& whom, const std::string& of, bool up) {
  const std::shared_ptr<End> end = Find(whom), other = Find(of);
  if (end == nullptr || other == nullptr) return;
  const PeerIndex index = end->IndexOf(other->id(), other->incarnation());
  end->Tell([&](FrameSink& sink) { up ? sink.OnUp(index) : sink.OnDown(index); });
}

void InProcessNetwork::SetJudge(Judge judge) {
  const std::lock_guard lock(mutex_);
  judge_ = std::move(judge);
}

void InProcessNetwork::Pass(const std::string& from, const std::string& to,
                            const FrameHeader& header, FrameBody body) {
  Judge judge;
  {
    const std::lock_guard lock(mutex_);
    judge = judge_;
  }
  switch (judge ? judge(from, to, header) : Fate::kDeliver) {
    case Fate::kDeliver:
      return Deliver(from, to, EncodeHeader(header), std::move(body));
    case Fate::kDrop:
      return;
    case Fate::kHold: {
      const std::lock_guard lock(mutex_);
      held_.push_back({from, to, header, std::move(body)});
      return;
    }
    case Fate::kCorrupt: {
      FrameHeaderBytes bytes = EncodeHeader(header);
      bytes[20] ^= std::byte{1};
      return Deliver(from, to, bytes, std::move(body));
    }
  }
}

void InProcessNetwork::DeliverHeld() {
  std::vector<Held> held;
  {
    const std::lock_guard lock(mutex_);
    held.swap(held_);
  }
  for (Held& frame : held) {
    Deliver(frame.from, frame.to, EncodeHeader(frame.header), std::move(frame.body));
  }
}

void InProcessNetwork::Deliver(const std::string& from, const std::string& to,
                               const FrameHeaderBytes& bytes, FrameBody body) {
  const std::shared_ptr<End> end = Find(to);
  if (end == nullptr) return;
  const absl::StatusOr<FrameHeader> header = ParseHeader(bytes, limits_);
  if (!header.ok() || !CheckBody(*header, body.bytes(), limits_).ok()) {
    end->Count([](Transport::Stats& stats) { ++stats.bad_frames; });
    // As a socket's reader does: the connection is closed, and opened again.
    for (const bool up : {false, true}) {
      TellState(from, to, up);
      TellState(to, from, up);
    }
    return;
  }
  if (header->to != end->incarnation()) {
    end->Count([](Transport::Stats& stats) { ++stats.fenced; });
    return;
  }
  end->Count([&](Transport::Stats& stats) {
    ++stats.frames_received;
    stats.bytes_received += kFrameHeaderBytes + header->body_bytes;
  });
  const PeerIndex index = end->IndexOf(from, header->from);
  end->Tell([&](FrameSink& sink) { sink.OnFrame(index, *header, std::move(body)); });
}

}  // namespace conclave::worker
