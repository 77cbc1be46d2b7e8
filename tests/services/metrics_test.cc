#include "services/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/services/testing/scrape.h"

namespace conclave::services {
namespace {

using ::testing::HasSubstr;
using testing::Scrape;

TEST(Metrics, ServesWhatItsSourcesSayAtScrapeTime) {
  auto metrics = Metrics::Start("127.0.0.1:0", /*insecure=*/false);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  int scrapes = 0;
  (*metrics)->AddSource([&](MetricsWriter& writer) {
    writer.Counter("conclave_scrapes_total", "help", {}, ++scrapes);
    writer.Gauge("vllm:kv_cache_usage_perc", "help", {{"model_name", "m"}, {"engine", "0"}}, 0.25);
    writer.Histogram("vllm:iteration_tokens_total", "help", {}, {1, 8}, {1, 2, 3}, 99);
  });
  EXPECT_THAT(Scrape((*metrics)->address()), HasSubstr("conclave_scrapes_total 1\n"));
  const std::string body = Scrape((*metrics)->address());
  EXPECT_THAT(body, HasSubstr("conclave_scrapes_total 2\n"));
  EXPECT_THAT(body, HasSubstr("vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.25\n"));
  EXPECT_THAT(body, HasSubstr("vllm:iteration_tokens_total_bucket{le=\"8\"} 3\n"));
  EXPECT_THAT(body, HasSubstr("vllm:iteration_tokens_total_bucket{le=\"+Inf\"} 6\n"));
  EXPECT_THAT(body, HasSubstr("process_resident_memory_bytes "));
}

TEST(Metrics, RefusesAnAddressInUseOrOpenToOthers) {
  auto metrics = Metrics::Start("127.0.0.1:0", false);
  ASSERT_TRUE(metrics.ok());
  EXPECT_EQ(Metrics::Start((*metrics)->address().ToString(), false).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(Metrics::Start("0.0.0.0:0", false).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Metrics::Start("0.0.0.0:0", true).ok());
}

}  // namespace
}  // namespace conclave::services
