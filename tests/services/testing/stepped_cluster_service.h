#pragma once
// A scheduler's service with virtual time and no network, which a test restarts at will.

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "services/cluster_service.h"
#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::services::testing {

class SteppedClusterService : public ::testing::Test {
 protected:
  // As options_ say, with what the last one stored.
  void Restart(const std::vector<std::string>& failpoints = {}) {
    service_.reset();
    options_.tick = std::chrono::milliseconds(0);
    failpoints_ = *Failpoints::Parse(failpoints);
    auto store = StateStore::Open(directory_.path());
    ASSERT_TRUE(store.ok()) << store.status();
    auto service = ClusterService::Create(options_, *std::move(store), SingleTenant(Credentials()),
                                          failpoints_, now_);
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
  }

  ClusterService::Options options_;
  worker::testing::TempDir directory_;
  Failpoints failpoints_;
  scheduler::Micros now_{1'000'000};
  std::unique_ptr<ClusterService> service_;
};

}  // namespace conclave::services::testing
