#pragma once
// A scheduler's service with virtual time and no network, which a test restarts at will; and the
// same among workers that beat in rounds.

#include <gtest/gtest.h>

#include <map>
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

// Four experts in one layer, placed among so many workers; whoever is started beats in each round.
// What the fixture of a test adds is who else beats, and how all follow a view.
class SteppedCluster : public SteppedClusterService {
 protected:
  explicit SteppedCluster(int32_t workers) {
    options_.placement.workers = workers;
    Restart();
  }

  // A worker that starts, or starts again.
  void Start(const std::string& id) {
    v1::HeartbeatRequest& beat = beats_[id];
    const uint64_t incarnation = beat.worker().incarnation() + 1;
    beat.Clear();
    v1::WorkerInfo& info = *beat.mutable_worker();
    info.set_id(id);
    info.set_incarnation(incarnation);
    info.set_address("127.0.0.1:5000");
    info.set_state(v1::WORKER_STATE_READY);
    info.set_epoch(0);
    info.mutable_model()->set_name("tiny");
    info.mutable_model()->set_moe_layers(1);
    info.mutable_model()->set_experts(4);
    info.mutable_model()->add_moe_layer_indices(0);
  }

  // Everybody beats, the scheduler draws its conclusions, everybody follows the view.
  void Round(scheduler::Micros after = std::chrono::milliseconds(100)) {
    now_ += after;
    Beat();
    service_->Step(now_);
    Follow(*service_->view());
  }
  void Rounds(int count) {
    for (int i = 0; i < count; ++i) Round();
  }
  virtual void Beat() = 0;
  virtual void Follow(const v1::ClusterView& view) = 0;

  std::map<std::string, v1::HeartbeatRequest> beats_;  // by worker
};

}  // namespace conclave::services::testing
