// A worker's host of experts, beyond what engines among others show.

#include "worker/experts/expert_host.h"

#include <gtest/gtest.h>

#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/engine.h"

namespace conclave::worker {
namespace {

// Takes so many peers and no more; all are down.
class FullTransport final : public Transport {
 public:
  explicit FullTransport(PeerIndex peers) : peers_(peers) {}

  void Start(FrameSink*) override {}
  void Stop() override {}
  PeerIndex Connect(const Peer&) override { return connected_ < peers_ ? connected_++ : -1; }
  void Forget(PeerIndex peer) override { forgotten_.push_back(peer); }
  bool up(PeerIndex) const override { return false; }
  int32_t distance(PeerIndex) const override { return 0; }
  std::optional<FrameBody> Reserve(PeerIndex, size_t) override { return std::nullopt; }
  bool Send(PeerIndex, FrameHeader, FrameBody) override { return false; }
  Stats stats() const override { return {}; }

  const std::vector<PeerIndex>& forgotten() const { return forgotten_; }

 private:
  const PeerIndex peers_;
  PeerIndex connected_ = 0;
  std::vector<PeerIndex> forgotten_;
};

TEST(ExpertHost, GoesOnWithoutPeersThatTheTransportHasNoRoomFor) {
  testing::TempDir directory;
  testing::WriteTinyOlmoe(directory.path(), 1);
  const auto model = Model::Load(directory.path(), {.hold_experts = false});
  ASSERT_TRUE(model.ok()) << model.status();
  const auto device = MakeCpuDevice(CpuDeviceOptionsFor((*model)->spec, {}));
  ASSERT_TRUE(device.ok()) << device.status();
  auto made = std::make_unique<FullTransport>(2);
  const FullTransport& transport = *made;
  ExpertHost host({.id = "self", .server = {.start_thread = false}},
                  FrameLimitsFor((*model)->spec, 16), **model, **device, std::move(made));

  host.SetPeers({{.id = "a"}, {.id = "b"}, {.id = "one too many", .alive = false}, {.id = "self"}});
  const auto placement = std::make_shared<const scheduler::Placement>(
      scheduler::Placement{.epoch = 1,
                           .plan = 1,
                           .workers = {"a", "one too many", "self"},
                           .owners = {(*model)->Experts().size(), std::vector<int32_t>{0, 1, 2}}});
  ASSERT_TRUE(host.Prepare(placement).ok());
  ASSERT_TRUE(host.Commit(1, 1).ok());
  host.BeginStep(1);
  EXPECT_EQ(host.adopted(), 1u);
  EXPECT_TRUE(host.Lost().empty());

  host.SetPeers({});
  EXPECT_EQ(transport.forgotten(), (std::vector<PeerIndex>{0, 1}));
}

}  // namespace
}  // namespace conclave::worker
