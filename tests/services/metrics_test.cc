#include "services/metrics.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace conclave::services {
namespace {

using ::testing::HasSubstr;

// The body of GET /metrics, asked as a scraper would.
std::string Scrape(const Address& address) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(static_cast<uint16_t>(address.port))};
  inet_pton(AF_INET, address.host.c_str(), &to.sin_addr);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t got; (got = read(fd, buffer, sizeof(buffer))) > 0;)
    answer.append(buffer, static_cast<size_t>(got));
  close(fd);
  return answer;
}

TEST(Metrics, ServesWhatItsSourcesSayAtScrapeTime) {
  auto metrics = Metrics::Start("127.0.0.1:0", /*insecure=*/false);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  int scrapes = 0;
  (*metrics)->AddSource([&](MetricsWriter& writer) {
    writer.Counter("conclave_scrapes_total", "help", {}, ++scrapes);
    writer.Gauge("vllm:kv_cache_usage_perc", "help", {{"model_name", "m"}, {"engine", "0"}}, 0.25);
    writer.Summary("conclave_step_seconds", "help", {}, 4, 0.5);
    writer.Histogram("vllm:iteration_tokens_total", "help", {}, {1, 8}, {1, 2, 3}, 99);
  });
  EXPECT_THAT(Scrape((*metrics)->address()), HasSubstr("conclave_scrapes_total 1\n"));
  const std::string body = Scrape((*metrics)->address());
  EXPECT_THAT(body, HasSubstr("conclave_scrapes_total 2\n"));
  EXPECT_THAT(body, HasSubstr("vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.25\n"));
  EXPECT_THAT(body, HasSubstr("conclave_step_seconds_count 4\n"));
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
