#include "services/convert_router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace conclave::services {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr size_t kLongest = 261;  // of an address in bytes

v1::RouterStatus Beat() {
  v1::RouterStatus beat;
  beat.set_pid(7);
  beat.set_address("10.0.0.1:7001");
  beat.set_metrics_address("10.0.0.1:7002");
  beat.set_live_requests(3);
  return beat;
}

std::string WhyNot(const v1::RouterStatus& beat) {
  const auto router = ToRouter(beat);
  if (router.ok()) return "";
  EXPECT_EQ(router.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(router.status().message());
}

TEST(ConvertRouter, TellsWhatTheRouterSaid) {
  v1::RouterStatus beat = Beat();
  EXPECT_EQ(ToProto(*ToRouter(beat)).state(), v1::ROUTER_STATE_SERVING);
  beat.set_draining(true);
  const v1::RouterStatus told = ToProto(*ToRouter(beat));
  EXPECT_EQ(told.state(), v1::ROUTER_STATE_DRAINING);
  EXPECT_EQ(told.pid(), 7);
  EXPECT_EQ(told.address(), "10.0.0.1:7001");
  EXPECT_EQ(told.metrics_address(), "10.0.0.1:7002");
  EXPECT_EQ(told.live_requests(), 3u);
}

TEST(ConvertRouter, RefusesAnAddressWhereNobodyCanConnect) {
  v1::RouterStatus beat = Beat();
  for (const char* const address : {"", "10.0.0.1", "10.0.0.1:0", "0.0.0.0:7001", "[::]:7001"}) {
    beat.set_address(address);
    EXPECT_THAT(WhyNot(beat), HasSubstr("address")) << address;
  }
}

TEST(ConvertRouter, RefusesAnAddressThatIsTooLong) {
  v1::RouterStatus beat = Beat();
  beat.set_address(std::string(kLongest + 1, 'a'));
  EXPECT_THAT(WhyNot(beat), HasSubstr("router.address: it is too long"));
  beat = Beat();
  beat.set_metrics_address(std::string(kLongest, 'a'));
  EXPECT_THAT(WhyNot(beat), IsEmpty());
  beat.set_metrics_address(std::string(kLongest + 1, 'a'));
  EXPECT_THAT(WhyNot(beat), HasSubstr("router.metrics_address: it is too long"));
}

TEST(ConvertRouter, TakesAdaptersOfAView) {
  v1::ClusterView view;
  view.add_workers();
  view.add_workers()->mutable_model()->set_name("base");
  v1::Adapter& active = *view.add_adapters();
  active.set_name("law");
  active.set_digest("1a");
  active.set_state(v1::ADAPTER_STATE_ACTIVE);
  v1::Adapter& drains = *view.add_adapters();
  drains.set_name("law");
  drains.set_digest("2b");
  drains.set_state(v1::ADAPTER_STATE_DRAINING);
  v1::PlacedAdapter& placed = *view.mutable_placement()->add_adapters();
  placed.set_digest("1a");
  placed.add_replaced(3);
  placed.add_replaced(9);
  const std::vector<router::AdapterView> adapters = AdaptersOf(view);
  ASSERT_EQ(adapters.size(), 2u);
  EXPECT_EQ(adapters[0].replaced, std::vector<uint32_t>({3, 9}));
  EXPECT_TRUE(adapters[1].replaced.empty()) << "the placement has it no more";
  EXPECT_EQ(adapters[0].name, "law");
  EXPECT_EQ(adapters[0].digest, "1a");
  EXPECT_EQ(adapters[0].parent, "base");
  EXPECT_EQ(adapters[0].state, router::AdapterView::State::kActive);
  EXPECT_EQ(adapters[1].digest, "2b");
  EXPECT_EQ(adapters[1].state, router::AdapterView::State::kDraining);
  EXPECT_TRUE(adapters[0].placed && !adapters[0].on_disk);
}

TEST(ConvertRouter, TakesAnAdapterThatIsOnDiskOrAboutToBe) {
  v1::ClusterView view;
  for (const char* const digest : {"1a", "2b"}) {
    v1::Adapter& adapter = *view.add_adapters();
    adapter.set_digest(digest);
    adapter.set_on_disk(true);
    adapter.set_problem("why");
    adapter.add_replaced(4);
  }
  view.mutable_placement()->add_adapters()->set_digest("2b");
  view.mutable_placement()->mutable_adapters(0)->add_replaced(5);
  const std::vector<router::AdapterView> adapters = AdaptersOf(view);
  EXPECT_TRUE(adapters[0].on_disk && !adapters[0].placed);
  EXPECT_EQ(adapters[0].replaced, std::vector<uint32_t>({4})) << "for who chooses among adapters";
  EXPECT_EQ(adapters[0].problem, "why");
  EXPECT_TRUE(adapters[1].on_disk && adapters[1].placed);
  EXPECT_EQ(adapters[1].replaced, std::vector<uint32_t>({5}));
  view.mutable_adapters(1)->set_lacking(true);
  EXPECT_FALSE(AdaptersOf(view)[1].placed) << "what began with it cannot go on";
}

}  // namespace
}  // namespace conclave::services
