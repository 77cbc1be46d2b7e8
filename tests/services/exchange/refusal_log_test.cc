// Who is refused by whom is said in words, and once.

#include "services/exchange/refusal_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/services/exchange/exchange_pair.h"

namespace conclave::services {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

constexpr size_t kLimit = 3;

class RefusalLogTest : public ::testing::Test {
 protected:
  RefusalLogTest()
      : log_([this](bool passing,
                    const std::string& what) { (passing ? passing_ : lasting_).push_back(what); },
             kLimit) {}

  Hello HelloOf(const std::string& id) const {
    return {.from_id = id,
            .from = 7,
            .to_id = "me",
            .to = 5,
            .numerics = "cpu/test",
            .limits = kTestLimits};
  }
  void Judge(const Hello& hello, Verdict verdict) {
    log_.Judged(hello, verdict, HelloOf("me"), "10.0.0.9", /*rings=*/false);
  }

  std::vector<std::string> passing_, lasting_;
  RefusalLog log_;
};

TEST_F(RefusalLogTest, SaysWhatWasFoundAndWhatExpected) {
  Hello hello = HelloOf("b");
  hello.numerics = "cpu/other";
  Judge(hello, Verdict::kNumerics);
  hello = HelloOf("b");
  hello.limits.rows = 1024;
  Judge(hello, Verdict::kLimits);
  EXPECT_THAT(lasting_,
              ElementsAre("the exchange refuses worker b (incarnation 7) at 10.0.0.9: it computes "
                          "as cpu/other, this worker as cpu/test; see --numerics, --weights, "
                          "--dense-weights and --returns",
                          AllOf(HasSubstr("up to 1024 rows"), HasSubstr("up to 512 rows"),
                                HasSubstr("--step-tokens"))));
}

TEST_F(RefusalLogTest, SaysEachPeersReasonOnceUntilItIsWelcome) {
  for (int i = 0; i < 3; ++i) Judge(HelloOf("b"), Verdict::kUnknown);
  EXPECT_THAT(passing_, SizeIs(1)) << "two workers learn of each other one after the other";
  Judge(HelloOf("c"), Verdict::kUnknown);
  EXPECT_THAT(passing_, SizeIs(2));
  Judge(HelloOf("b"), Verdict::kWelcome);
  for (int i = 0; i < 3; ++i) Judge(HelloOf("b"), Verdict::kUnknown);
  EXPECT_THAT(passing_, SizeIs(3));
  EXPECT_THAT(lasting_, IsEmpty());
}

TEST_F(RefusalLogTest, TellsAPeersVerdictOnUsFromOursOnIt) {
  const worker::Peer peer{.id = "b", .incarnation = 7, .address = "10.0.0.9:80"};
  Hello sent = HelloOf("me");
  sent.ring = {.slots = 8, .arena = 4096};
  for (int i = 0; i < 2; ++i) log_.Answered(peer, Verdict::kCarrier, sent);
  Judge(HelloOf("b"), Verdict::kCarrier);
  EXPECT_THAT(lasting_,
              ElementsAre("worker b (incarnation 7) at 10.0.0.9:80 refuses this worker's exchange: "
                          "this worker sends rows by shm, it takes rows by tcp; see --exchange",
                          HasSubstr("the exchange refuses worker b")));
}

TEST_F(RefusalLogTest, NamesThoseWhoSaidNoHelloByTheirAddress) {
  Judge({}, Verdict::kNotAHello);
  Judge({}, Verdict::kNotAHello);
  log_.KeptOut("10.0.0.8");
  EXPECT_THAT(lasting_, ElementsAre("the exchange refuses 10.0.0.9: what it sent is no hello",
                                    "the exchange refuses 10.0.0.8: it may not connect"));
}

TEST_F(RefusalLogTest, NamesNoMoreThanItsLimit) {
  for (size_t i = 0; i < kLimit + 5; ++i)
    Judge(HelloOf("stranger-" + std::to_string(i)), Verdict::kCarrier);
  ASSERT_THAT(lasting_, SizeIs(kLimit + 1));
  EXPECT_THAT(lasting_[kLimit - 1], HasSubstr("stranger-2"));
  EXPECT_THAT(lasting_[kLimit], HasSubstr("too many to name"));
}

TEST(Refusals, AreToldOnBothSidesOfAConnectionByDifferentCarriers) {
  Refusals here, there;
  PeerTransport::Options by_tcp = TestOptions("c", Carrier::kTcp);
  PeerTransport::Options by_shm = TestOptions("d", Carrier::kSharedMemory);
  here.Hear(by_tcp);
  there.Hear(by_shm);
  Side c(by_tcp), d(by_shm);
  c.transport->Connect(d.AsPeer());
  d.transport->Connect(c.AsPeer());
  const auto carrier = static_cast<size_t>(Verdict::kCarrier);
  ASSERT_TRUE(WaitFor([&] { return d.transport->counts().heard[carrier] > 2; }, "refusals"));
  ASSERT_TRUE(WaitFor([&] { return c.transport->counts().received[carrier] > 2; }, "their end"));
  ASSERT_TRUE(WaitFor([&] { return d.transport->counts().unanswered > 10; }, "silence"));
  EXPECT_THAT(here.told(), ElementsAre(AllOf(HasSubstr("worker d"),
                                             HasSubstr("this worker sends rows by tcp, it "
                                                       "takes rows by shm; see --exch"))));
  EXPECT_THAT(there.told(),
              UnorderedElementsAre(
                  AllOf(HasSubstr("refuses worker c"), HasSubstr("at 127.0.0.1"),
                        HasSubstr("it sends rows by tcp, taken are rows by shm; see --exchange")),
                  AllOf(HasSubstr("worker c"), HasSubstr("10 times"), HasSubstr("by shm alone"))));
}

}  // namespace
}  // namespace conclave::services
