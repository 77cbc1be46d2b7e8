#include "services/exchange/peer_transport.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/exchange/peer_transport_impl.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using worker::FrameHeader;
using worker::FrameKind;
using worker::PeerIndex;

constexpr uint64_t kPage = 4096;
// Questions and answers both ways, one of them late, without waiting for room.
constexpr uint64_t kFramesInRing = 4;

uint64_t LargestBody(const worker::FrameLimits& limits) {
  const bool sums = limits.returns == worker::Returns::kSums;
  FrameHeader header{.kind = sums ? FrameKind::kTerms : FrameKind::kRows,
                     .type = limits.type,
                     .rows = limits.rows,
                     .routes = limits.routes,
                     .sums = sums ? limits.routes : 0,
                     .dim = limits.dim};
  const uint64_t question = worker::BodyBytes(header);
  header.kind = worker::AnswerTo(header.kind);
  return std::max(question, worker::BodyBytes(header));
}

// Of a ring that holds a few of the largest frames; 0 if not even one.
uint64_t ArenaFor(const PeerTransport::Options& options) {
  const uint64_t largest = LargestBody(options.limits) + worker::kFrameAlignment;
  if (largest > options.max_ring_bytes) return 0;
  const uint64_t wanted = std::min(kFramesInRing * largest, options.max_ring_bytes);
  return (wanted + kPage - 1) / kPage * kPage;
}

// As if we greeted ourselves.
Hello HelloOf(const PeerTransport::Options& options) {
  return {.from_id = options.id,
          .from = options.incarnation,
          .to_id = options.id,
          .to = options.incarnation,
          .numerics = options.numerics,
          .limits = options.limits};
}

absl::Status Unusable(const std::string& what, const error_code& error) {
  const std::string text = absl::StrFormat("exchange: %s: %s", what, error.message());
  if (error == asio::error::address_in_use) return absl::AlreadyExistsError(text);
  return absl::UnavailableError(text);
}

}  // namespace

absl::StatusOr<Carrier> ParseCarrier(const std::string& text) {
  if (text == "auto") return Carrier::kAuto;
  if (text == "tcp") return Carrier::kTcp;
  if (text == "shm") return Carrier::kSharedMemory;
  return absl::InvalidArgumentError(
      absl::StrFormat("\"%s\" carries no exchange: want auto, tcp or shm", text));
}

std::string_view NameOf(Carrier carrier) {
  switch (carrier) {
    case Carrier::kAuto:
      return "auto";
    case Carrier::kTcp:
      return "tcp";
    case Carrier::kSharedMemory:
      return "shm";
  }
  return "unknown";
}

bool GoTogether(Carrier one, Carrier other) {
  return one == other || one == Carrier::kAuto || other == Carrier::kAuto;
}

PeerTransport::PeerTransport(const Options& options)
    : options_(options),
      self_(HelloOf(options)),
      arena_(ArenaFor(options)),
      tcp_(io_),
      unix_(io_),
      tick_(io_),
      accept_again_(io_),
      refusals_(options.on_refusal, options.max_refusals_told),
      rings_(std::make_shared<const Rings>()) {}

PeerTransport::~PeerTransport() { Stop(); }

absl::StatusOr<std::unique_ptr<PeerTransport>> PeerTransport::Listen(const Options& options) {
  if (options.id.size() > kMaxHelloText || options.numerics.size() > kMaxHelloText) {
    return absl::InvalidArgumentError(
        absl::StrFormat("exchange: an id or numerics of more than %d bytes", kMaxHelloText));
  }
  std::unique_ptr<PeerTransport> transport(new PeerTransport(options));
  if (options.carrier == Carrier::kSharedMemory && transport->arena_ == 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "exchange: a frame may have %d bytes, a ring of shared memory %d; use tcp or smaller steps",
        LargestBody(options.limits), options.max_ring_bytes));
  }
  CONCLAVE_RETURN_IF_ERROR(transport->Bind());
  return transport;
}

absl::Status PeerTransport::Bind() {
  CONCLAVE_RETURN_IF_ERROR(BindTcp());
  if (options_.carrier == Carrier::kTcp || arena_ == 0) return absl::OkStatus();
  return BindUnix();
}

absl::Status PeerTransport::BindTcp() {
  const std::string where = options_.listen.ToString();
  error_code error;
  tcp::resolver resolver(io_);
  const std::string& host = options_.listen.host;
  const auto found =
      resolver.resolve(host.empty() ? "0.0.0.0" : host, std::to_string(options_.listen.port),
                       tcp::resolver::passive, error);
  if (error || found.empty()) return Unusable(where, error);
  const tcp::endpoint endpoint = *found.begin();
  tcp_.open(endpoint.protocol(), error);
  if (!error) tcp_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) tcp_.bind(endpoint, error);
  if (!error) tcp_.listen(tcp::acceptor::max_listen_connections, error);
  if (error) return Unusable(where, error);
  address_ = Address{host, tcp_.local_endpoint().port()}.ToString();
  return absl::OkStatus();
}

absl::Status PeerTransport::BindUnix() {
  const std::string name = RingName(options_.id, options_.incarnation);
  error_code error;
  unix_.open({}, error);
  if (!error) unix_.bind(std::string(1, '\0') + name, error);
  if (!error) unix_.listen(asio::socket_base::max_listen_connections, error);
  if (error) return Unusable("socket @" + name, error);
  return absl::OkStatus();
}

void PeerTransport::Start(worker::FrameSink* sink) {
  sink_ = sink;
  AcceptTcp();
  if (unix_.is_open()) AcceptUnix();
  Tick();
  thread_ = std::thread([this] { io_.run(); });
}

void PeerTransport::Stop() {
  io_.stop();
  if (thread_.joinable()) thread_.join();
  std::vector<std::shared_ptr<Other>> others;
  {
    const std::lock_guard lock(mutex_);
    others = others_;
  }
  // Who polls is done with an end before it is closed.
  for (const auto& other : others) CloseAll(*other);
}

PeerIndex PeerTransport::Connect(const worker::Peer& peer) {
  if (peer.id.size() > kMaxHelloText) return -1;
  std::shared_ptr<Other> other = Find(peer.id, peer.incarnation);
  {
    const std::lock_guard lock(mutex_);
    const auto wanted =
        std::count_if(others_.begin(), others_.end(), [](const auto& one) { return one->wanted; });
    const bool is_new = other == nullptr;
    if ((is_new || !other->wanted) && wanted >= options_.max_peers) return -1;
    if (is_new) {
      other = std::make_shared<Other>(io_, peer, static_cast<PeerIndex>(others_.size()));
      others_.push_back(other);
    }
    other->who.address = peer.address;
    other->wanted = true;
  }
  asio::post(io_, [this, other] { Reach(*other); });
  return other->index;
}

void PeerTransport::Forget(PeerIndex peer) {
  const auto other = Find(peer);
  if (other == nullptr) return;
  Add([&] { other->wanted = false; });
  asio::post(io_, [this, other] { TearDown(*other, Loss::kForgotten); });
}

bool PeerTransport::up(PeerIndex peer) const {
  const auto other = Find(peer);
  return other != nullptr && other->up;
}

int32_t PeerTransport::distance(PeerIndex peer) const {
  const auto other = Find(peer);
  return other != nullptr && other->near ? 0 : 1;
}

std::optional<worker::FrameBody> PeerTransport::Reserve(PeerIndex to, size_t size) {
  const auto link = LinkTo(to);
  if (link == nullptr) return std::nullopt;
  return link->Reserve(size);
}

bool PeerTransport::Send(PeerIndex to, FrameHeader header, worker::FrameBody body) {
  const auto link = LinkTo(to);
  return link != nullptr && link->Send(header, std::move(body));
}

std::shared_ptr<PeerTransport::Other> PeerTransport::Find(PeerIndex peer) const {
  const std::lock_guard lock(mutex_);
  if (peer < 0 || static_cast<size_t>(peer) >= others_.size()) return nullptr;
  return others_[static_cast<size_t>(peer)];
}

std::shared_ptr<PeerTransport::Other> PeerTransport::Find(const std::string& id,
                                                          uint64_t incarnation) const {
  const std::lock_guard lock(mutex_);
  const auto it = std::find_if(others_.begin(), others_.end(), [&](const auto& other) {
    return other->who.id == id && other->who.incarnation == incarnation;
  });
  return it == others_.end() ? nullptr : *it;
}

std::shared_ptr<SendingEnd> PeerTransport::LinkTo(PeerIndex peer) const {
  const std::lock_guard lock(mutex_);
  if (peer < 0 || static_cast<size_t>(peer) >= others_.size()) return nullptr;
  return others_[static_cast<size_t>(peer)]->link;
}

bool PeerTransport::Poll() {
  std::shared_ptr<const Rings> rings;
  Add([&] { rings = rings_; });
  bool any = false;
  for (const auto& ring : *rings) any |= ring->Poll();
  return any;
}

void PeerTransport::BeginPolling() {
  std::shared_ptr<const Rings> rings;
  Add([&] { rings = rings_; });
  for (const auto& ring : *rings) ring->BeginWatch();
}

void PeerTransport::EndPolling() {
  std::shared_ptr<const Rings> rings;
  Add([&] { rings = rings_; });
  for (const auto& ring : *rings) ring->EndWatch();
}

worker::Transport::Stats PeerTransport::stats() const {
  const Counts counts = this->counts();
  const auto lost = [&](Loss loss) { return counts.losses[static_cast<size_t>(loss)]; };
  const auto heard = [&](Verdict verdict) { return counts.heard[static_cast<size_t>(verdict)]; };
  Stats stats{.frames_sent = counters_.frames_sent,
              .frames_received = counters_.frames_received,
              .bytes_sent = counters_.bytes_sent,
              .bytes_received = counters_.bytes_received};
  for (const uint64_t count : counts.losses) stats.losses += count;
  stats.bad_frames = lost(Loss::kHeader) + lost(Loss::kBody) + lost(Loss::kSequence) +
                     lost(Loss::kRing) + heard(Verdict::kNotAHello);
  stats.fenced = lost(Loss::kFenced);  // hellos are no frames
  const std::lock_guard lock(mutex_);
  stats.connects = connects_;
  return stats;
}

PeerTransport::Counts PeerTransport::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace conclave::services
