// The home's side alone: whom it asks.

#include "worker/experts/peer_exchange.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "worker/device/device.h"

namespace conclave::worker {
namespace {

constexpr FrameLimits kLimits = {
    .type = DType::kF32, .layers = 1, .experts = 2, .dim = 4, .rows = 8, .routes = 8};

// Everybody is up and nobody answers; remembers who was asked.
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
  bool Send(PeerIndex to, FrameHeader, FrameBody) override {
    asked.push_back(to);
    return true;
  }
  Stats stats() const override { return {}; }

  std::map<PeerIndex, int32_t> distances;
  std::vector<PeerIndex> asked;

 private:
  std::vector<std::unique_ptr<std::byte[]>> memory_;
};

class Home : public ::testing::Test {
 protected:
  // Whom a step asks that needs one expert for one row.
  PeerIndex AskedFor(scheduler::ExpertId expert) {
    exchange_.BeginStep(++step_, table_);
    const std::vector<scheduler::ExpertId> experts = {expert};
    const std::vector<float> row(kLimits.dim);
    std::vector<float> result(kLimits.dim);
    transport_.asked.clear();
    EXPECT_TRUE(exchange_.Dispatch(0, {row.data(), 1, kLimits.dim, kLimits.dim}, experts, 1).ok());
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

}  // namespace
}  // namespace conclave::worker
