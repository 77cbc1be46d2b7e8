// Two transports find each other, and only each other, by TCP and by shared memory.

#include "services/exchange/peer_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/services/exchange/exchange_pair.h"

namespace conclave::services {
namespace {

using worker::FrameBody;
using worker::FrameHeader;
using worker::FrameKind;
using worker::PeerIndex;
using worker::Refusal;

class PeerTransportBy : public ::testing::TestWithParam<Carrier> {
 protected:
  PeerTransportBy() : a_(TestOptions("a", GetParam())), b_(TestOptions("b", GetParam())) {}

  void ConnectBoth() {
    b_of_a_ = a_.transport->Connect(b_.AsPeer());
    a_of_b_ = b_.transport->Connect(a_.AsPeer());
    ASSERT_TRUE(WaitFor([&] { return IsUp(a_, b_of_a_) && IsUp(b_, a_of_b_); }, "both to be up"));
  }

  Side a_, b_;
  PeerIndex b_of_a_ = -1, a_of_b_ = -1;
};

INSTANTIATE_TEST_SUITE_P(Carriers, PeerTransportBy,
                         ::testing::Values(Carrier::kTcp, Carrier::kSharedMemory),
                         [](const auto& carrier) {
                           return carrier.param == Carrier::kTcp ? "Tcp" : "SharedMemory";
                         });

TEST_P(PeerTransportBy, CarriesFramesInOrderBothWays) {
  ConnectBoth();
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(SendRows(*a_.transport, b_of_a_, i, 1 + static_cast<uint32_t>(i)));
    ASSERT_TRUE(SendRows(*b_.transport, a_of_b_, 1000 + i));
    ASSERT_TRUE(WaitFor([&] { return a_.sink.count() > i && b_.sink.count() > i; }, "a frame"));
  }
  const auto heard = b_.sink.heard();
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(heard[i].header.request, i);
    EXPECT_EQ(heard[i].header.rows, i + 1);
    EXPECT_EQ(heard[i].header.from, a_.options.incarnation);
    EXPECT_EQ(heard[i].header.to, b_.options.incarnation);
    EXPECT_EQ(heard[i].from, a_of_b_);
    EXPECT_EQ(heard[i].body.back(), std::byte{7});
  }
  EXPECT_EQ(a_.sink.heard()[99].header.request, 1099u);
  EXPECT_GE(a_.transport->stats().frames_sent, 100u);
  EXPECT_EQ(b_.transport->stats().bad_frames, 0u);
  EXPECT_EQ(a_.transport->counts().rings, GetParam() == Carrier::kSharedMemory ? 1u : 0u);
}

TEST_P(PeerTransportBy, CallsNearWhomItSharesMemoryWith) {
  ConnectBoth();
  const int32_t expected = GetParam() == Carrier::kSharedMemory ? 0 : 1;
  EXPECT_EQ(a_.transport->distance(b_of_a_), expected);
  EXPECT_EQ(b_.transport->distance(a_of_b_), expected);
}

TEST_P(PeerTransportBy, CarriesFramesWithoutBodies) {
  ConnectBoth();
  const FrameHeader refusal = {.kind = FrameKind::kRefusal, .refusal = Refusal::kEpoch, .epoch = 9};
  ASSERT_TRUE(a_.transport->Send(b_of_a_, refusal, FrameBody()));
  ASSERT_TRUE(WaitFor([&] { return b_.sink.count() == 1; }, "the refusal"));
  EXPECT_EQ(b_.sink.heard()[0].header.refusal, Refusal::kEpoch);
  EXPECT_EQ(b_.sink.heard()[0].header.epoch, 9u);
}

TEST_P(PeerTransportBy, GivesRoomOnlyForWhatItsLimitsLeave) {
  ConnectBoth();
  b_.sink.Keep(true);
  uint64_t sent = 0;
  // Nobody gives anything back: it must end, and not by waiting.
  while (sent < 100'000 && SendRows(*a_.transport, b_of_a_, sent, kTestLimits.rows)) ++sent;
  EXPECT_GT(sent, 1u);
  EXPECT_LT(sent, 100'000u);
  b_.sink.Keep(false);
  ASSERT_TRUE(WaitFor(
      [&] {
        b_.sink.Keep(false);
        return SendRows(*a_.transport, b_of_a_, sent, kTestLimits.rows);
      },
      "room again"));
  ASSERT_TRUE(WaitFor([&] { return b_.sink.count() == sent + 1; }, "every frame"));
  const auto heard = b_.sink.heard();
  for (uint64_t i = 0; i <= sent; ++i) ASSERT_EQ(heard[i].header.request, i);
}

TEST(PeerTransport, HasAsManyFramesUnderWayInARingAsItHasSlots) {
  PeerTransport::Options options = TestOptions("a", Carrier::kSharedMemory);
  options.ring_slots = 8;
  Side a(options), b(TestOptions("b", Carrier::kSharedMemory));
  const PeerIndex to = a.transport->Connect(b.AsPeer());
  const PeerIndex back = b.transport->Connect(a.AsPeer());
  ASSERT_TRUE(WaitFor([&] { return IsUp(a, to) && IsUp(b, back); }, "both to be up"));
  b.sink.Keep(true);
  uint64_t sent = 0;
  while (sent < 100 && SendRows(*a.transport, to, sent)) ++sent;
  EXPECT_EQ(sent, options.ring_slots);
}

TEST(PeerTransport, NeedsRoomInARingForOneOfTheLargestFrames) {
  PeerTransport::Options options = TestOptions("a", Carrier::kSharedMemory);
  const FrameHeader results = {.kind = FrameKind::kResults,
                               .type = kTestLimits.type,
                               .routes = kTestLimits.routes,
                               .dim = kTestLimits.dim};
  options.max_ring_bytes = worker::BodyBytes(results) + worker::kFrameAlignment;
  EXPECT_TRUE(PeerTransport::Listen(options).ok());
  --options.max_ring_bytes;
  const absl::Status none = PeerTransport::Listen(options).status();
  EXPECT_TRUE(absl::IsInvalidArgument(none)) << none;
  EXPECT_THAT(std::string(none.message()), ::testing::HasSubstr("use tcp or smaller steps"));
  options.carrier = Carrier::kAuto;
  EXPECT_TRUE(PeerTransport::Listen(options).ok()) << "there is TCP";
}

TEST_P(PeerTransportBy, CarriesTheLargestFramesOfSums) {
  PeerTransport::Options home = TestOptions("home", GetParam());
  home.limits.returns = worker::Returns::kSums;
  PeerTransport::Options owner = TestOptions("owner", GetParam());
  owner.limits = home.limits;
  Side asks(home), answers(owner);
  const PeerIndex to = asks.transport->Connect(answers.AsPeer());
  const PeerIndex back = answers.transport->Connect(asks.AsPeer());
  ASSERT_TRUE(WaitFor([&] { return IsUp(asks, to) && IsUp(answers, back); }, "both to be up"));

  FrameHeader header = {.kind = FrameKind::kTerms,
                        .type = home.limits.type,
                        .request = 3,
                        .rows = home.limits.rows,
                        .routes = home.limits.routes,
                        .sums = home.limits.routes,
                        .dim = home.limits.dim};
  auto question = asks.transport->Reserve(to, worker::BodyBytes(header));
  ASSERT_TRUE(question.has_value());
  for (uint32_t i = 0; i < header.routes; ++i) {
    worker::MutableRoutesOf(header, question->bytes())[i] = {i / 2, i % home.limits.experts};
    worker::MutableTermsOf(header, question->bytes())[i] = {0.5f, i};
  }
  ASSERT_TRUE(asks.transport->Send(to, header, *std::move(question)));
  ASSERT_TRUE(WaitFor([&] { return answers.sink.count() == 1; }, "the terms"));
  const auto heard = answers.sink.heard()[0];
  EXPECT_EQ(heard.header.sums, header.sums);
  EXPECT_EQ(worker::TermsOf(heard.header, heard.body).back().sum, header.routes - 1);

  header.kind = FrameKind::kSums;
  auto answer = answers.transport->Reserve(back, worker::BodyBytes(header));
  ASSERT_TRUE(answer.has_value());
  std::memset(answer->bytes().data(), 7, answer->bytes().size());
  ASSERT_TRUE(answers.transport->Send(back, header, *std::move(answer)));
  ASSERT_TRUE(WaitFor([&] { return asks.sink.count() == 1; }, "the sums"));
  EXPECT_EQ(asks.sink.heard()[0].header.request, 3u);
  EXPECT_EQ(asks.sink.heard()[0].body.back(), std::byte{7});
}

TEST_P(PeerTransportBy, TellsOfALossAtOnceAndConnectsAgain) {
  ConnectBoth();
  b_.transport->Stop();
  b_.transport.reset();
  ASSERT_TRUE(WaitFor([&] { return a_.sink.downs() == 1; }, "the loss"));
  EXPECT_FALSE(IsUp(a_, b_of_a_));
  EXPECT_FALSE(SendRows(*a_.transport, b_of_a_, 1));

  // The same process listens again, where it did.
  b_.options.listen = *Address::Parse(a_.transport->address());
  b_.options.listen.port = 0;
  b_.transport = *PeerTransport::Listen(b_.options);
  b_.transport->Start(&b_.sink);
  b_.transport->Connect(a_.AsPeer());
  EXPECT_EQ(a_.transport->Connect(b_.AsPeer()), b_of_a_);
  // It is up before the sink hears of it.
  ASSERT_TRUE(WaitFor([&] { return a_.sink.ups() == 2; }, "the connection to be made again"));
  EXPECT_TRUE(IsUp(a_, b_of_a_));
}

TEST_P(PeerTransportBy, HearsNobodyWhoWasForgotten) {
  ConnectBoth();
  a_.transport->Forget(b_of_a_);
  ASSERT_TRUE(WaitFor([&] { return a_.sink.downs() == 1 && b_.sink.downs() == 1; }, "both ends"));
  const auto refused = [&] {
    return a_.transport->counts().heard[static_cast<size_t>(Verdict::kUnknown)];
  };
  ASSERT_TRUE(WaitFor([&] { return refused() > 2; }, "it to be refused"));
  EXPECT_FALSE(IsUp(b_, a_of_b_));
  EXPECT_EQ(a_.transport->Connect(b_.AsPeer()), b_of_a_);
  ASSERT_TRUE(WaitFor([&] { return IsUp(a_, b_of_a_) && IsUp(b_, a_of_b_); }, "both to be up"));
}

TEST_P(PeerTransportBy, IsNotHeardAsAnotherProcessThanTheOneItIs) {
  worker::Peer past = b_.AsPeer();
  --past.incarnation;
  const PeerIndex old = a_.transport->Connect(past);
  b_.transport->Connect(a_.AsPeer());
  if (GetParam() == Carrier::kTcp) {
    const auto refused = [&] {
      return b_.transport->counts().heard[static_cast<size_t>(Verdict::kNotMe)];
    };
    ASSERT_TRUE(WaitFor([&] { return refused() > 1; }, "it to be refused"));
  } else {
    ASSERT_TRUE(WaitFor([&] { return a_.transport->counts().unanswered > 1; }, "no answer"));
  }
  EXPECT_FALSE(IsUp(a_, old));
  EXPECT_EQ(b_.sink.ups(), 0);
}

TEST_P(PeerTransportBy, TakesNoPeersOfOtherBitsOrAnotherModel) {
  PeerTransport::Options other_bits = TestOptions("c", GetParam());
  other_bits.numerics = "cpu/other";
  PeerTransport::Options other_model = TestOptions("d", GetParam());
  ++other_model.limits.layers;
  Side c(other_bits), d(other_model);
  for (Side* one : {&c, &d}) {
    a_.transport->Connect(one->AsPeer());
    one->transport->Connect(a_.AsPeer());
  }
  const auto heard = [](const Side& side, Verdict verdict) {
    return side.transport->counts().received[static_cast<size_t>(verdict)];
  };
  ASSERT_TRUE(WaitFor([&] { return heard(c, Verdict::kNumerics) > 0; }, "numerics to differ"));
  ASSERT_TRUE(WaitFor([&] { return heard(d, Verdict::kLimits) > 0; }, "limits to differ"));
  EXPECT_EQ(a_.sink.ups(), 0);
}

TEST_P(PeerTransportBy, FindsNoBadByteInWhatWaitedWhileItWasStopped) {
  PeerTransport::Options options = TestOptions("c", GetParam());
  options.hello_timeout = std::chrono::milliseconds(20);
  auto impatient = std::make_unique<Side>(options);
  RecordingSink sink;
  const PeerTransport::Options listening = TestOptions("d", GetParam());
  const auto stopped = *PeerTransport::Listen(listening);
  stopped->Connect(impatient->AsPeer());
  impatient->transport->Connect(
      {.id = "d", .incarnation = listening.incarnation, .address = stopped->address()});
  ASSERT_TRUE(WaitFor([&] { return impatient->transport->counts().unanswered == 3; }, "3 hellos"));
  impatient.reset();
  stopped->Start(&sink);
  // Whom it can still answer it greets, and loses.
  const auto over = [&] {
    const PeerTransport::Counts counts = stopped->counts();
    return counts.guests_gone + counts.heard[static_cast<size_t>(Verdict::kWelcome)];
  };
  EXPECT_TRUE(WaitFor([&] { return over() >= 3; }, "them to be heard"));
  EXPECT_EQ(stopped->counts().heard[static_cast<size_t>(Verdict::kNotAHello)], 0u);
  EXPECT_EQ(stopped->stats().bad_frames, 0u);
  stopped->Stop();
}

TEST_P(PeerTransportBy, DisconnectsWhoIsSilentButNotWhoHasNothingToSay) {
  // Both say that they live more often than the other listens for it.
  PeerTransport::Options options = TestOptions("c", GetParam());
  options.silence = std::chrono::milliseconds(400);
  options.alive_every = std::chrono::milliseconds(10);
  Side c(options);
  options = TestOptions("d", GetParam());
  options.silence = std::chrono::seconds(30);
  options.alive_every = std::chrono::milliseconds(10);
  Side talks(options);
  options = TestOptions("e", GetParam());
  options.alive_every = std::chrono::hours(1);
  Side silent(options);
  const PeerIndex talking = c.transport->Connect(talks.AsPeer());
  talks.transport->Connect(c.AsPeer());
  ASSERT_TRUE(WaitFor([&] { return IsUp(c, talking); }, "the one that talks"));
  c.transport->Connect(silent.AsPeer());
  silent.transport->Connect(c.AsPeer());
  const auto silences = [&] {
    return c.transport->counts().losses[static_cast<size_t>(Loss::kSilent)];
  };
  ASSERT_TRUE(WaitFor([&] { return silences() > 1; }, "the silent one to be disconnected, twice"));
  ASSERT_TRUE(WaitFor([&] { return c.sink.downs() > 1; }, "the sink to be told"));
  EXPECT_TRUE(IsUp(c, talking));
}

TEST_P(PeerTransportBy, SendsFromManyThreadsAtOnce) {
  ConnectBoth();
  constexpr int kThreads = 4, kEach = 200;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        EXPECT_TRUE(WaitFor(
            [&] {
              b_.transport->Poll();
              return SendRows(*a_.transport, b_of_a_, static_cast<uint64_t>(t * kEach + i), 16,
                              static_cast<std::byte>(t + 1));
            },
            "room"));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(WaitFor([&] { return b_.sink.count() == kThreads * kEach; }, "every frame"));
  std::vector<int> last(kThreads, -1);
  for (const auto& heard : b_.sink.heard()) {
    const int t = static_cast<int>(heard.header.request) / kEach;
    EXPECT_GT(static_cast<int>(heard.header.request), last[static_cast<size_t>(t)]);
    last[static_cast<size_t>(t)] = static_cast<int>(heard.header.request);
    EXPECT_EQ(heard.body.back(), static_cast<std::byte>(t + 1));
  }
}

TEST_P(PeerTransportBy, DeliversToWhoPollsAndAfterwardsByItself) {
  ConnectBoth();
  for (uint64_t i = 0; i < 100; ++i) {
    b_.transport->BeginPolling();
    ASSERT_TRUE(SendRows(*a_.transport, b_of_a_, 2 * i));
    ASSERT_TRUE(WaitFor(
        [&] {
          b_.transport->Poll();
          return b_.sink.count() == 2 * i + 1;
        },
        "the frame that is polled for"));
    b_.transport->EndPolling();
    ASSERT_TRUE(SendRows(*a_.transport, b_of_a_, 2 * i + 1));
    ASSERT_TRUE(WaitFor([&] { return b_.sink.count() == 2 * i + 2; }, "the one that is not"));
  }
}

TEST(PeerTransport, UsesSharedMemoryByItselfWhereItCan) {
  Side a(TestOptions("a", Carrier::kAuto)), b(TestOptions("b", Carrier::kAuto)),
      c(TestOptions("c", Carrier::kTcp));
  const PeerIndex b_of_a = a.transport->Connect(b.AsPeer());
  const PeerIndex c_of_a = a.transport->Connect(c.AsPeer());
  b.transport->Connect(a.AsPeer());
  c.transport->Connect(a.AsPeer());
  ASSERT_TRUE(WaitFor([&] { return IsUp(a, b_of_a) && IsUp(a, c_of_a); }, "both to be up"));
  EXPECT_EQ(a.transport->counts().rings, 1u);
}

TEST(PeerTransport, TakesAsManyPeersAsItsLimitAndNoMore) {
  PeerTransport::Options options = TestOptions("a", Carrier::kTcp);
  options.max_peers = 2;
  Side a(options);
  const auto connect = [&](const std::string& id) {
    return a.transport->Connect({.id = id, .incarnation = 1, .address = "127.0.0.1:1"});
  };
  EXPECT_EQ(connect("b"), 0);
  EXPECT_EQ(connect("c"), 1);
  EXPECT_EQ(connect("c"), 1);
  EXPECT_EQ(connect("d"), -1);
  a.transport->Forget(0);
  EXPECT_EQ(connect("d"), 2);
}

TEST(PeerTransport, SaysWhereItCannotListen) {
  Side a(TestOptions("a", Carrier::kTcp));
  PeerTransport::Options options = TestOptions("b", Carrier::kTcp);
  options.listen = *Address::Parse(a.transport->address());
  const auto same = PeerTransport::Listen(options);
  ASSERT_FALSE(same.ok());
  EXPECT_THAT(std::string(same.status().message()), ::testing::HasSubstr(a.transport->address()));
}

TEST(PeerTransport, AsksWhetherSomebodyMayConnect) {
  PeerTransport::Options options = TestOptions("a", Carrier::kTcp);
  options.authorize = [](const std::string&, bool) {
    return absl::PermissionDeniedError("nobody may");
  };
  Side a(options), b(TestOptions("b", Carrier::kTcp));
  a.transport->Connect(b.AsPeer());
  b.transport->Connect(a.AsPeer());
  ASSERT_TRUE(WaitFor([&] { return a.transport->counts().guests_refused > 1; }, "refusals"));
  EXPECT_EQ(a.sink.ups(), 0);
}

}  // namespace
}  // namespace conclave::services
