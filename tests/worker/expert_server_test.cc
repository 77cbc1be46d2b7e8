// The owner's side alone: what it computes is what it has judged, whatever a peer does to memory
// that both share.

#include "worker/experts/expert_server.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/engine.h"
#include "worker/model/model.h"

namespace conclave::worker {
namespace {

constexpr PeerIndex kPeer = 3;

// Bodies in memory of the test's own; keeps what was sent.
class KeepingTransport final : public Transport {
 public:
  struct Sent {
    FrameHeader header;
    std::vector<std::byte> body;
  };

  void Start(FrameSink*) override {}
  void Stop() override {}
  PeerIndex Connect(const Peer&) override { return kPeer; }
  void Forget(PeerIndex) override {}
  bool up(PeerIndex) const override { return true; }
  int32_t distance(PeerIndex) const override { return 0; }
  std::optional<FrameBody> Reserve(PeerIndex, size_t size) override {
    memory_.push_back(std::make_unique<std::byte[]>(size));
    return FrameBody(nullptr, memory_.back().get(), size);
  }
  bool Send(PeerIndex, FrameHeader header, FrameBody body) override {
    sent.push_back({header, {body.bytes().begin(), body.bytes().end()}});
    return true;
  }
  Stats stats() const override { return {}; }

  std::vector<Sent> sent;

 private:
  std::vector<std::unique_ptr<std::byte[]>> memory_;
};

class Server : public ::testing::Test {
 protected:
  Server() {
    testing::WriteTinyDeepSeekV2(directory_.path(), /*seed=*/1);
    auto model = Model::Load(directory_.path());
    EXPECT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    Engine::Options options;
    auto device = MakeCpuDevice(CpuDeviceOptionsFor(model_->spec, options));
    EXPECT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    limits_ = FrameLimitsFor(model_->spec, /*step_tokens=*/16);
    Start();
  }

  void Start() { Start(static_cast<int32_t>(limits_.rows)); }
  void Start(int32_t max_rows) {
    server_ = std::make_unique<ExpertServer>(
        ExpertServer::Options{.max_rows = max_rows,
                              .max_routes = static_cast<int32_t>(limits_.routes),
                              .start_thread = false,
                              .bring = [this](const FfnWeights& w) { brought_.push_back(&w); }},
        limits_, model_->Experts(), *device_, &transport_,
        [this](PeerIndex, const FrameHeader&, std::span<const FrameRoute> routes) {
          judged_.assign(routes.begin(), routes.end());
          if (while_judging_) while_judging_();
          return Refusal::kNone;
        });
  }

  // Two rows, three routes, in memory that the peer can write to.
  ExpertServer::RemoteJob Job() {
    FrameHeader header = {
        .type = limits_.type, .request = 9, .rows = 2, .routes = 3, .dim = limits_.dim};
    header.body_bytes = BodyBytes(header);
    shared_.assign(header.body_bytes / sizeof(uint64_t) + 1, 0);
    const FrameBody body(nullptr, reinterpret_cast<std::byte*>(shared_.data()), header.body_bytes);
    const std::span<FrameRoute> routes = MutableRoutesOf(header, body.bytes());
    routes[0] = {0, 1};
    routes[1] = {1, 1};
    routes[2] = {1, 2};
    std::byte* row = MutableRowsOf(header, body.bytes()).data();
    const std::vector<float> values(limits_.dim, 0.5f);
    for (uint32_t i = 0; i < header.rows; ++i) {
      PackRow(values.data(), limits_.dim, limits_.type,
              row + i * limits_.dim * SizeOf(limits_.type));
    }
    EXPECT_TRUE(CheckBody(header, body.bytes(), limits_).ok());
    return {kPeer, header, FrameBody(nullptr, body.bytes().data(), body.bytes().size())};
  }
  // The same in sums: of the first row's route, and of the second row's two.
  ExpertServer::RemoteJob Terms() {
    ExpertServer::RemoteJob job = Job();
    FrameHeader header = job.header;
    const std::vector<FrameRoute> routes(RoutesOf(header, job.body.bytes()).begin(),
                                         RoutesOf(header, job.body.bytes()).end());
    const std::vector<std::byte> rows(RowsOf(header, job.body.bytes()).begin(),
                                      RowsOf(header, job.body.bytes()).end());
    header.kind = FrameKind::kTerms;
    header.sums = 2;
    header.body_bytes = BodyBytes(header);
    shared_.assign(header.body_bytes / sizeof(uint64_t) + 1, 0);
    const std::span<std::byte> body =
        std::as_writable_bytes(std::span(shared_)).first(header.body_bytes);
    std::copy(routes.begin(), routes.end(), MutableRoutesOf(header, body).begin());
    const std::array<FrameTerm, 3> terms = {FrameTerm{0.5f, 0}, {0.25f, 1}, {2.0f, 1}};
    std::copy(terms.begin(), terms.end(), MutableTermsOf(header, body).begin());
    std::copy(rows.begin(), rows.end(), MutableRowsOf(header, body).begin());
    EXPECT_TRUE(CheckBody(header, body, limits_).ok());
    return {kPeer, header, FrameBody(nullptr, body.data(), body.size())};
  }
  // As a peer does that writes to a ring after its frame was taken out of it.
  void Overwrite(size_t route, FrameRoute with) {
    std::memcpy(reinterpret_cast<std::byte*>(shared_.data()) + route * sizeof with, &with,
                sizeof with);
  }

  testing::TempDir directory_;
  std::shared_ptr<const Model> model_;
  std::unique_ptr<Device> device_;
  FrameLimits limits_;
  KeepingTransport transport_;
  std::function<void()> while_judging_;
  std::vector<FrameRoute> judged_;
  std::vector<const FfnWeights*> brought_;
  std::vector<uint64_t> shared_;  // aligned as routes are
  std::unique_ptr<ExpertServer> server_;
};

TEST_F(Server, ComputesWhatItJudgedThoughThePeerWritesMeanwhile) {
  server_->Submit(Job());
  EXPECT_TRUE(server_->Serve());
  while_judging_ = [this] {
    for (size_t route = 0; route < 3; ++route) Overwrite(route, {0xFFFFFFFF, 0xFFFFFFFF});
  };
  server_->Submit(Job());
  EXPECT_TRUE(server_->Serve());
  ASSERT_EQ(transport_.sent.size(), 2u);
  EXPECT_EQ(transport_.sent[1].header.kind, FrameKind::kResults);
  EXPECT_EQ(transport_.sent[0].body, transport_.sent[1].body);
}

TEST_F(Server, HasExpertsBroughtIntoMemoryBeforeItComputesWithThemTheFirstTime) {
  const std::vector<const FfnWeights*> experts = model_->Experts();
  server_->Submit(Job());
  ASSERT_TRUE(server_->Serve());
  EXPECT_EQ(brought_, (std::vector{experts[1], experts[2]}));
  server_->Submit(Job());
  ASSERT_TRUE(server_->Serve());
  EXPECT_EQ(brought_.size(), 2u);
  server_->SetWeights(2, experts[3]);
  server_->Submit(Job());
  ASSERT_TRUE(server_->Serve());
  EXPECT_EQ(brought_, (std::vector{experts[1], experts[2], experts[3]}));
}

TEST_F(Server, RefusesRoutesThatWereChangedSinceTheirCheck) {
  const std::array<FrameRoute, 2> changes = {FrameRoute{2, 1}, FrameRoute{1, limits_.experts}};
  for (const FrameRoute& change : changes) {
    judged_.clear();
    server_->Submit(Job());
    Overwrite(2, change);
    EXPECT_FALSE(server_->Serve()) << "nothing is left to compute";
    EXPECT_TRUE(judged_.empty()) << "what is no route is nobody's to judge";
    EXPECT_EQ(transport_.sent.back().header.kind, FrameKind::kRefusal);
    EXPECT_EQ(transport_.sent.back().header.refusal, Refusal::kChanged);
    EXPECT_EQ(transport_.sent.back().header.request, 9u);
  }
  EXPECT_EQ(server_->stats().refused[static_cast<size_t>(Refusal::kChanged)], changes.size());
  server_->Submit(Job());
  EXPECT_TRUE(server_->Serve()) << "and goes on";
}

TEST_F(Server, SaysWhichExpertItLacksOfThoseThatItShouldHave) {
  ExpertServer::RemoteJob job = Job();
  const auto lacked = static_cast<scheduler::ExpertId>(model_->Experts().size());
  MutableRoutesOf(job.header, job.body.bytes())[2].expert = lacked;
  server_->Submit(std::move(job));
  EXPECT_FALSE(server_->Serve()) << "there is nothing to compute";
  ASSERT_EQ(transport_.sent.size(), 1u);
  EXPECT_EQ(transport_.sent[0].header.kind, FrameKind::kRefusal);
  EXPECT_EQ(transport_.sent[0].header.refusal, Refusal::kLacking);
  EXPECT_EQ(transport_.sent[0].header.lacking, lacked);
}

TEST_F(Server, ReturnsTheSumsOfTheRowsThatItWouldReturn) {
  server_->Submit(Job());
  ASSERT_TRUE(server_->Serve());
  const KeepingTransport::Sent rows = transport_.sent.back();
  limits_.returns = Returns::kSums;
  Start();
  server_->Submit(Terms());
  ASSERT_TRUE(server_->Serve());
  const KeepingTransport::Sent sums = transport_.sent.back();
  EXPECT_EQ(sums.header.kind, FrameKind::kSums);
  ASSERT_EQ(sums.body.size(), 2 * limits_.dim * sizeof(float));
  const auto value = [&](const KeepingTransport::Sent& sent, size_t at) {
    float number = 0.0f;
    std::memcpy(&number, sent.body.data() + at * sizeof number, sizeof number);
    return number;
  };
  for (size_t c = 0; c < limits_.dim; ++c) {
    EXPECT_EQ(value(sums, c), 0.5f * value(rows, c));
    EXPECT_EQ(value(sums, limits_.dim + c),
              0.25f * value(rows, limits_.dim + c) + 2.0f * value(rows, 2 * limits_.dim + c));
  }
}

TEST_F(Server, RefusesTermsThatWereChangedSinceTheirCheck) {
  limits_.returns = Returns::kSums;
  Start();
  server_->Submit(Terms());
  Overwrite(3 + 2, std::bit_cast<FrameRoute>(FrameTerm{1.0f, 7}));  // the last term
  EXPECT_FALSE(server_->Serve());
  EXPECT_TRUE(judged_.empty());
  EXPECT_EQ(transport_.sent.back().header.refusal, Refusal::kChanged);
}

TEST_F(Server, TakesAsManyRoutesInAPassAsItMayAndTheRestInTheNext) {
  const size_t fit = limits_.routes / 3;
  limits_.routes -= limits_.routes % 3;  // of a job; the last one that fits fills it
  Start(/*max_rows=*/1 << 20);
  for (size_t i = 0; i <= fit; ++i) server_->Submit(Job());
  EXPECT_TRUE(server_->Serve());
  EXPECT_EQ(transport_.sent.size(), fit);
  EXPECT_TRUE(server_->Serve());
  EXPECT_EQ(transport_.sent.size(), fit + 1);
}

// As when it asks itself for what a lost peer owed.
TEST_F(Server, ComputesTwoJobsOfItsHomeThatDoNotFitOnePass) {
  const auto rows = static_cast<int64_t>(limits_.rows), dim = static_cast<int64_t>(limits_.dim);
  std::vector<float> x(limits_.rows * limits_.dim, 0.5f);
  std::vector<FrameRoute> routes;
  std::vector<int32_t> outputs;
  for (uint32_t row = 0; row < limits_.rows; ++row) {
    routes.push_back({row, row % 3});
    outputs.push_back(static_cast<int32_t>(row));
  }
  std::array<std::vector<float>, 2> results;
  std::array<ExpertServer::LocalJob, 2> jobs;
  for (size_t i = 0; i < jobs.size(); ++i) {
    results[i].resize(x.size());
    jobs[i].x = {x.data(), rows, dim, dim};
    jobs[i].routes = routes;
    jobs[i].outputs = outputs;
    jobs[i].out = {results[i].data(), rows, dim, dim};
    server_->Submit(&jobs[i]);
  }
  server_->Finish(&jobs[1]);
  server_->Finish(&jobs[0]);
  EXPECT_EQ(server_->stats().passes, 2u);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_NE(results[0][0], 0.0f);
}

}  // namespace
}  // namespace conclave::worker
