// The home's side alone: whom it asks, and what it makes of answers.

#include "worker/experts/peer_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "worker/device/device.h"
#include "worker/experts/partial_sum.h"

namespace conclave::worker {
namespace {

constexpr FrameLimits kLimits = {
    .type = DType::kF32, .layers = 1, .experts = 2, .dim = 4, .rows = 8, .routes = 8};

// Everybody is up and nobody answers by itself; remembers who was asked for what.
class SilentTransport final : public Transport {
 public:
  void Start(FrameSink*) override {}
  void Stop() override {}
  PeerIndex Connect(const Peer&) override { return -1; }
  void Forget(PeerIndex) override {}
  bool up(PeerIndex) const override { return true; }
  int32_t distance(PeerIndex peer) const override { return distances.at(peer); }
  std::optional<FrameBody> Reserve(PeerIndex, size_t size) override {
    memory_.push_back(std::make_unique<std::byte[]>(size));
    return FrameBody(nullptr, memory_.back().get(), size);
  }
  bool Send(PeerIndex to, FrameHeader header, FrameBody) override {
    asked.push_back(to);
    headers.push_back(header);
    return true;
  }
  bool Poll() override { return on_poll && on_poll(); }
  Stats stats() const override { return {}; }

  std::map<PeerIndex, int32_t> distances;
  std::vector<PeerIndex> asked;
  std::vector<FrameHeader> headers;
  std::function<bool()> on_poll;

 private:
  std::vector<std::unique_ptr<std::byte[]>> memory_;
};

class Home : public ::testing::Test {
 protected:
  // Whom a step asks that needs one expert for one row.
  PeerIndex AskedFor(scheduler::ExpertId expert) {
    exchange_.BeginStep(++step_, table_);
    return AskedByALayerFor(expert);
  }
  PeerIndex AskedByALayerFor(scheduler::ExpertId expert) {
    const std::vector<scheduler::ExpertId> experts = {expert};
    const std::vector<float> row(kLimits.dim);
    std::vector<float> result(kLimits.dim);
    transport_.asked.clear();
    const std::vector<float> weights(experts.size(), 1.0f);
    EXPECT_TRUE(
        exchange_.Dispatch(0, {row.data(), 1, kLimits.dim, kLimits.dim}, experts, weights, 1).ok());
    exchange_.Close();  // nobody will answer
    EXPECT_TRUE(absl::IsCancelled(exchange_.Combine({result.data(), 1, kLimits.dim, kLimits.dim})));
    EXPECT_EQ(transport_.asked.size(), 1u);
    return transport_.asked.empty() ? -1 : transport_.asked.front();
  }

  SilentTransport transport_;
  const std::unique_ptr<Device> device_ = *MakeCpuDevice({});
  ExpertServer server_{
      {.start_thread = false},
      kLimits,
      {},
      *device_,
      &transport_,
      [](PeerIndex, const FrameHeader&, std::span<const FrameRoute>) { return Refusal::kNone; }};
  PeerExchange exchange_{{}, kLimits, server_, &transport_};
  // Both experts are w1's and w2's.
  PeerExchange::Table table_ = {
      .placement = std::make_shared<const scheduler::Placement>(scheduler::Placement{
          .epoch = 1, .plan = 1, .workers = {"w0", "w1", "w2"}, .owners = {{1, 2}, {1, 2}}}),
      .self = 0,
      .peers = {-1, 7, 8}};
  uint64_t step_ = 0;
};

TEST_F(Home, AsksTheNearerOfReplicasThatAreEquallyBusy) {
  transport_.distances = {{7, 1}, {8, 0}};
  EXPECT_EQ(AskedFor(0), 8);
  // It is the busier one now.
  EXPECT_EQ(AskedFor(0), 7);
  EXPECT_EQ(AskedFor(1), 8);
}

TEST_F(Home, HearsBeforeEachStepHowFarPeersAre) {
  transport_.distances = {{7, 0}, {8, 1}};
  EXPECT_EQ(AskedFor(0), 7);
  EXPECT_EQ(AskedFor(0), 8);
  // The connection to w1 was made anew, by TCP.
  transport_.distances = {{7, 1}, {8, 0}};
  EXPECT_EQ(AskedFor(0), 8);
}

TEST_F(Home, AsksNobodyAgainWhoWasLostInAStepThoughItOwedNothing) {
  transport_.distances = {{7, 0}, {8, 1}};
  EXPECT_EQ(AskedFor(0), 7);
  exchange_.OnDown(8);  // called dead, say: it may still be connected
  for (int layer = 0; layer < 4; ++layer) EXPECT_EQ(AskedByALayerFor(0), 7);
}

TEST_F(Home, AsksAgainInTheNextStepWhomItsTableHas) {
  transport_.distances = {{7, 0}, {8, 1}};
  EXPECT_EQ(AskedFor(0), 7);
  exchange_.OnDown(8);
  EXPECT_EQ(AskedByALayerFor(0), 7);
  exchange_.OnDown(8);
  exchange_.ForgetLosses();
  transport_.distances = {{7, 1}, {8, 0}};
  EXPECT_EQ(AskedFor(0), 8);
}

// One row of two experts, both w1's, so that w1 is asked for their sum. It is late at once: the
// first expert is asked of w2 too, the second of w3.
class HomeOfALateSum : public Home {
 protected:
  static constexpr FrameLimits kSums = {.type = DType::kF32,
                                        .layers = 1,
                                        .experts = 2,
                                        .dim = 4,
                                        .rows = 8,
                                        .routes = 8,
                                        .returns = Returns::kSums};
  enum Peers : PeerIndex { kW1 = 7, kW2 = 8, kW3 = 9 };

  HomeOfALateSum() {
    table_ = {.placement = std::make_shared<const scheduler::Placement>(
                  scheduler::Placement{.epoch = 1,
                                       .plan = 1,
                                       .workers = {"w0", "w1", "w2", "w3"},
                                       .owners = {{1, 2}, {1, 3}}}),
              .self = 0,
              .peers = {-1, kW1, kW2, kW3}};
    transport_.distances = {{kW1, 0}, {kW2, 0}, {kW3, 0}};
    const float* const rows[] = {first_.data(), second_.data()};
    PartialSum(rows, weights_, kSums.dim, kSums.type, sum_.data());
  }

  // Answers the question to `peer` by these rows.
  void Answer(PeerIndex peer, const std::vector<float>& numbers) {
    for (size_t i = 0; i < transport_.asked.size(); ++i) {
      if (transport_.asked[i] != peer) continue;
      FrameHeader header = transport_.headers[i];
      header.kind = FrameKind::kSums;
      header.sums = static_cast<uint32_t>(numbers.size() / kSums.dim);
      bodies_.push_back(std::make_unique<std::vector<float>>(numbers));
      auto* const data = reinterpret_cast<std::byte*>(bodies_.back()->data());
      late_.OnAnswer(peer, header, FrameBody(nullptr, data, numbers.size() * sizeof(float)));
      return;
    }
    ADD_FAILURE() << peer << " was not asked";
  }

  // What comes of the row when, all three being asked, these happen one after the other.
  absl::Status After(std::vector<std::function<void()>> events) {
    size_t next = 0;
    transport_.on_poll = [&] {
      if (transport_.asked.size() < 3 || next == events.size()) return false;
      events[next++]();
      return true;
    };
    late_.BeginStep(++step_, table_);
    const std::vector<float> x(kSums.dim);
    const std::vector<scheduler::ExpertId> experts = {0, 1};
    EXPECT_TRUE(late_.Dispatch(0, {x.data(), 1, kSums.dim, kSums.dim}, experts, weights_, 2).ok());
    EXPECT_THAT(transport_.asked, ::testing::ElementsAre(kW1));
    const absl::Status status = late_.Combine({result_.data(), 2, kSums.dim, kSums.dim});
    EXPECT_EQ(next, events.size());
    return status;
  }
  std::vector<float> Result() const { return {result_.begin(), result_.begin() + kSums.dim}; }

  const std::vector<float> first_ = {1.5f, -3.0f, 0.1f, 7.0f}, second_ = {0.3f, 2.0f, -5.0f, 1e-3f};
  const std::vector<float> weights_ = {0.7f, 0.2f};
  std::vector<float> sum_ = std::vector<float>(kSums.dim);
  std::vector<float> result_ = std::vector<float>(2 * kSums.dim, -1.0f);
  std::vector<std::unique_ptr<std::vector<float>>> bodies_;
  ExpertServer sums_server_{
      {.start_thread = false},
      kSums,
      {},
      *device_,
      &transport_,
      [](PeerIndex, const FrameHeader&, std::span<const FrameRoute>) { return Refusal::kNone; }};
  PeerExchange late_{{.late = std::chrono::microseconds(0)}, kSums, sums_server_, &transport_};
};

TEST_F(HomeOfALateSum, MakesItOfRowsThatCameFirst) {
  EXPECT_TRUE(After({[&] { Answer(kW3, second_); }, [&] { Answer(kW2, first_); }}).ok());
  EXPECT_EQ(Result(), sum_);
  EXPECT_THAT(transport_.asked, ::testing::UnorderedElementsAre(kW1, kW2, kW3));
  EXPECT_EQ(transport_.headers[0].sums, 1u);
  EXPECT_EQ(transport_.headers[0].routes, 2u);
  EXPECT_EQ(transport_.headers[1].attempt, 1u);
}

TEST_F(HomeOfALateSum, TakesItBehindTheFirstOfItsRows) {
  EXPECT_TRUE(After({[&] { Answer(kW2, first_); }, [&] { Answer(kW1, sum_); }}).ok());
  EXPECT_EQ(Result(), sum_) << "and the row is not added to it";
}

TEST_F(HomeOfALateSum, TakesItBehindTheSecondOfItsRows) {
  EXPECT_TRUE(After({[&] { Answer(kW3, second_); }, [&] { Answer(kW1, sum_); }}).ok());
  EXPECT_EQ(Result(), sum_);
}

TEST_F(HomeOfALateSum, HearsNoRowsBehindIt) {
  const auto all = [&] {
    Answer(kW1, sum_);
    Answer(kW2, first_);
    Answer(kW3, second_);
  };
  EXPECT_TRUE(After({all}).ok());
  EXPECT_EQ(Result(), sum_);
}

TEST_F(HomeOfALateSum, WaitsForItWhereARowWasLost) {
  EXPECT_TRUE(
      After({[&] { Answer(kW2, first_); }, [&] { late_.OnDown(kW3); }, [&] { Answer(kW1, sum_); }})
          .ok());
  EXPECT_EQ(Result(), sum_);
  EXPECT_EQ(transport_.asked.size(), 3u) << "w1 is not asked again for what it owes";
}

TEST_F(HomeOfALateSum, SaysOfWhichExpertNothingCanComeAnyMore) {
  const absl::Status status =
      After({[&] { Answer(kW2, first_); }, [&] { late_.OnDown(kW1); }, [&] { late_.OnDown(kW3); }});
  EXPECT_EQ(status, absl::UnavailableError("no live owner for expert 1"));
}

TEST_F(HomeOfALateSum, TakesNoAnswerOfAnotherNumberOfRows) {
  std::vector<float> two = sum_;
  two.insert(two.end(), second_.begin(), second_.end());
  EXPECT_TRUE(After({[&] { Answer(kW1, two); }, [&] { Answer(kW3, second_); },
                     [&] { Answer(kW2, first_); }})
                  .ok());
  EXPECT_EQ(Result(), sum_);
  EXPECT_EQ(late_.stats().stale, 1u);
}

}  // namespace
}  // namespace conclave::worker
