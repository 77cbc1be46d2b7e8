// The side of PeerTransport that runs on its thread: who is greeted, reached, up and torn down.

#include <algorithm>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <utility>

#include "services/exchange/peer_transport.h"
#include "services/exchange/peer_transport_impl.h"

namespace conclave::services {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using worker::FrameHeader;

constexpr std::chrono::milliseconds kAcceptAgain{100};  // after an error, such as no descriptors

// How many whole ticks pass before so much time has.
int TicksOf(std::chrono::milliseconds time, std::chrono::milliseconds tick) {
  return static_cast<int>((time.count() + tick.count() - 1) / tick.count());
}

bool IsLoopback(const asio::ip::address& address) {
  if (address.is_loopback()) return true;
  return address.is_v6() && address.to_v6().is_v4_mapped() &&
         asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6()).is_loopback();
}

// By its index alone: counted in an array.
template <typename Name>
size_t At(Name name) {
  return static_cast<size_t>(name);
}

}  // namespace

void PeerTransport::AcceptTcp() {
  tcp_.async_accept([this](error_code error, tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {
      accept_again_.expires_after(kAcceptAgain);
      accept_again_.async_wait([this](error_code) { AcceptTcp(); });
      return;
    }
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    const tcp::endpoint from = socket.remote_endpoint(error);
    if (error) {
      Add([&] { ++counts_.guests_gone; });
    } else if (MayConnect(from.address())) {
      Receive(Stream(std::move(socket)), from.address().to_string(), /*by_ring=*/false);
    } else {
      Add([&] { ++counts_.guests_refused; });
      refusals_.KeptOut(from.address().to_string());
    }
    AcceptTcp();
  });
}

void PeerTransport::AcceptUnix() {
  unix_.async_accept([this](error_code error, asio::local::stream_protocol::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (!error) {
      Stream stream(std::move(socket));
      if (SameUser(stream)) {
        Receive(std::move(stream), "this machine", /*by_ring=*/true);
      } else {
        Add([&] { ++counts_.guests_refused; });
        refusals_.KeptOut("another user of this machine");
      }
    }
    AcceptUnix();
  });
}

bool PeerTransport::MayConnect(const asio::ip::address& from) const {
  const bool loopback = IsLoopback(from);
  return options_.authorize ? options_.authorize(from.to_string(), loopback).ok() : loopback;
}

void PeerTransport::Receive(Stream stream, const std::string& from, bool by_ring) {
  if (guests_.size() >= static_cast<size_t>(options_.max_guests))
    return Add([&] { ++counts_.guests_refused; });
  error_code ignored;
  stream.non_blocking(true, ignored);
  auto ring = std::make_shared<std::shared_ptr<RingReceiver>>();
  auto guest = std::make_shared<std::weak_ptr<Guest>>();
  const auto made = std::make_shared<Guest>(
      std::move(stream),
      [this, by_ring, ring](const Hello& hello, OwnFd& fd) {
        const Verdict verdict = Judge(hello, by_ring);
        if (verdict != Verdict::kWelcome || !by_ring) return verdict;
        auto memory = RingMemory::Map(fd.Take(), hello.ring, options_.max_ring_bytes);
        if (!memory.ok()) return Verdict::kRing;
        *ring = std::make_shared<RingReceiver>(*std::move(memory));
        return Verdict::kWelcome;
      },
      [this, from, by_ring, ring, guest](std::optional<Verdict> verdict, const Hello& hello,
                                         Stream welcome) {
        std::erase_if(guests_, [&](const auto& one) { return one.first == guest->lock(); });
        if (!verdict.has_value()) return Add([&] { ++counts_.guests_gone; });
        Greeted(hello, *verdict, from, by_ring);
        if (verdict != Verdict::kWelcome) return;
        const auto other = Find(hello.from_id, hello.from);
        Admit(*other, std::move(welcome), std::move(*ring));
      });
  *guest = made;
  guests_.emplace_back(made, 0);
  made->Begin();
}

void PeerTransport::Greeted(const Hello& hello, Verdict verdict, const std::string& from,
                            bool by_ring) {
  Add([&] { ++counts_.heard[At(verdict)]; });
  const bool rings = by_ring || options_.carrier == Carrier::kSharedMemory;
  refusals_.Judged(hello, verdict, self_, from, rings);
}

Verdict PeerTransport::Judge(const Hello& hello, bool by_ring) const {
  const Verdict verdict = JudgeHello(hello, self_);
  if (verdict != Verdict::kWelcome) return verdict;
  if (by_ring != (hello.ring.slots != 0)) return Verdict::kCarrier;
  if (!by_ring && options_.carrier == Carrier::kSharedMemory) return Verdict::kCarrier;
  const auto other = Find(hello.from_id, hello.from);
  const std::lock_guard lock(mutex_);
  return other != nullptr && other->wanted ? Verdict::kWelcome : Verdict::kUnknown;
}

void PeerTransport::Admit(Other& other, Stream stream, std::shared_ptr<RingReceiver> ring) {
  if (other.in != nullptr) TearDown(other, Loss::kReplaced);
  const auto tell = [this, &other](const FrameHeader& header, worker::FrameBody body) {
    const std::lock_guard lock(other.telling);
    sink_->OnFrame(other.index, header, std::move(body));
  };
  const ReceivingEnd::Callbacks callbacks{
      .on_frame = tell, .on_lost = [this, &other](Loss loss) { TearDown(other, loss); }};
  const FrameCheck check(options_.limits, other.who.incarnation, options_.incarnation,
                         /*hashed=*/ring == nullptr);
  if (ring != nullptr) {
    Add([&] { ++counts_.rings; });
    other.in_ring = std::make_shared<RingReceivingEnd>(std::move(stream), std::move(ring), check,
                                                       counters_, callbacks);
    other.in = other.in_ring;
  } else {
    other.in = std::make_shared<TcpReceivingEnd>(std::move(stream), check, options_.receive_bytes,
                                                 counters_, callbacks);
  }
  // It lives: no reason to wait any longer before we connect too.
  if (other.waits) other.retry.cancel();
  MaybeUp(other);
}

void PeerTransport::Reach(Other& other) {
  const auto wanted = [&] {
    const std::lock_guard lock(mutex_);
    return other.wanted;
  };
  if (other.out != nullptr || other.dial != nullptr || other.waits || !wanted()) return;
  other.dial_ticks = 0;
  if (options_.carrier != Carrier::kTcp && arena_ != 0 && DialRing(other)) return;
  DialTcp(other);
}

bool PeerTransport::DialRing(Other& other) {
  auto memory = RingMemory::Create({.slots = options_.ring_slots, .arena = arena_});
  if (!memory.ok()) return false;
  const auto ring = std::make_shared<RingSender>(*std::move(memory));
  Hello hello = HelloTo(other.who);
  hello.ring = ring->shape();
  other.dial = std::make_shared<Dial>(
      io_, EncodeHello(hello), [this, &other, ring](std::optional<Verdict> verdict, Stream stream) {
        other.dial = nullptr;
        if (!verdict.has_value() && options_.carrier == Carrier::kAuto) return DialTcp(other);
        Answered(other, verdict, std::move(stream), ring);
      });
  other.dial->ByUnix(RingName(other.who.id, other.who.incarnation), ring->fd());
  return true;
}

void PeerTransport::DialTcp(Other& other) {
  absl::StatusOr<Address> address = Address{};
  Add([&] { address = Address::Parse(other.who.address); });
  if (!address.ok() || options_.carrier == Carrier::kSharedMemory) return RetryLater(other);
  other.dial =
      std::make_shared<Dial>(io_, EncodeHello(HelloTo(other.who)),
                             [this, &other](std::optional<Verdict> verdict, Stream stream) {
                               other.dial = nullptr;
                               Answered(other, verdict, std::move(stream), nullptr);
                             });
  other.dial->ByTcp(address->host, std::to_string(address->port));
}

void PeerTransport::Answered(Other& other, std::optional<Verdict> verdict, Stream stream,
                             std::shared_ptr<RingSender> ring) {
  worker::Peer who;
  Add([&] {
    who = other.who;
    ++(verdict ? counts_.received[At(*verdict)] : counts_.unanswered);
  });
  other.unanswered = verdict ? 0 : other.unanswered + 1;
  if (other.unanswered == options_.unanswered_told)
    refusals_.Unanswered(who, other.unanswered, options_.carrier == Carrier::kSharedMemory);
  if (verdict.has_value()) {
    Hello sent = HelloTo(who);
    if (ring != nullptr) sent.ring = ring->shape();
    refusals_.Answered(who, *verdict, sent);
  }
  if (verdict != Verdict::kWelcome) return RetryLater(other);
  const auto on_lost = [this, &other](Loss loss) { TearDown(other, loss); };
  other.near = ring != nullptr;
  if (ring != nullptr) {
    const auto end = std::make_shared<RingSendingEnd>(std::move(stream), std::move(ring),
                                                      BlankTo(other), counters_, on_lost);
    end->Begin();
    other.out = end;
  } else {
    const auto end = std::make_shared<TcpSendingEnd>(std::move(stream), options_.send,
                                                     BlankTo(other), counters_, on_lost);
    end->Begin();
    other.out = end;
  }
  MaybeUp(other);
}

void PeerTransport::RetryLater(Other& other) {
  other.backoff = std::clamp(other.backoff * 2, options_.backoff_min, options_.backoff_max);
  other.waits = true;
  other.retry.expires_after(other.backoff);
  other.retry.async_wait([this, &other](error_code) {
    other.waits = false;
    Reach(other);
  });
}

void PeerTransport::MaybeUp(Other& other) {
  if (other.in == nullptr || other.out == nullptr) return;
  other.backoff = {};
  Add([&] {
    other.link = other.out;
    ++connects_;
  });
  ListRings();
  {
    const std::lock_guard lock(other.telling);
    other.up = true;
    sink_->OnUp(other.index);
  }
  other.in->Begin();
}

void PeerTransport::TearDown(Other& other, Loss loss) {
  if (other.in != nullptr || other.out != nullptr) Add([&] { ++counts_.losses[At(loss)]; });
  CloseAll(other);
  ListRings();
  if (other.up.exchange(false)) {
    const std::lock_guard lock(other.telling);
    sink_->OnDown(other.index);
  }
  if (loss == Loss::kForgotten) {
    other.retry.cancel();
    if (const auto dial = std::exchange(other.dial, nullptr)) dial->Cancel();
  } else if (other.dial == nullptr && !other.waits) {
    RetryLater(other);
  }
}

void PeerTransport::CloseAll(Other& other) {
  Add([&] { other.link = nullptr; });
  // A dial that was for the session that ends is for the next one just as well.
  if (const auto out = std::exchange(other.out, nullptr)) out->Close();
  if (const auto in = std::exchange(other.in, nullptr)) in->Close();
  other.in_ring = nullptr;
}

// Says that we live, and disconnects who did not for too long. Counts ticks instead of looking at
// the clock: after a stall of our own everybody gets the time to be heard.
void PeerTransport::Tick() {
  const int silent = TicksOf(options_.silence, options_.alive_every);
  const int late = TicksOf(options_.hello_timeout, options_.alive_every);
  std::vector<std::shared_ptr<Other>> others;
  Add([&] { others = others_; });
  for (const auto& other : others) {
    if (other->up && other->in->QuietTicks() > silent) TearDown(*other, Loss::kSilent);
    if (other->out != nullptr) other->out->SayAlive();
    if (other->dial != nullptr && ++other->dial_ticks > late) {
      std::exchange(other->dial, nullptr)->Cancel();
      Answered(*other, std::nullopt, Stream(io_), nullptr);
    }
  }
  std::vector<std::shared_ptr<Guest>> tardy;
  for (auto& [guest, ticks] : guests_) {
    if (++ticks > late) tardy.push_back(guest);
  }
  for (const auto& guest : tardy) guest->GiveUp();
  tick_.expires_after(options_.alive_every);
  tick_.async_wait([this](error_code error) {
    if (!error) Tick();
  });
}

void PeerTransport::ListRings() {
  auto rings = std::make_shared<Rings>();
  std::vector<std::shared_ptr<Other>> others;
  Add([&] { others = others_; });
  for (const auto& other : others) {
    if (other->in_ring != nullptr) rings->push_back(other->in_ring);
  }
  Add([&] { rings_ = std::move(rings); });
}

Hello PeerTransport::HelloTo(const worker::Peer& peer) const {
  Hello hello = self_;
  hello.to_id = peer.id;
  hello.to = peer.incarnation;
  return hello;
}

FrameHeader PeerTransport::BlankTo(const Other& other) const {
  return {.type = options_.limits.type,
          .from = options_.incarnation,
          .to = other.who.incarnation,
          .dim = options_.limits.dim};
}

}  // namespace conclave::services
