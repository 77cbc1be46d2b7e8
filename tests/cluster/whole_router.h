#pragma once
// A real router before a FakeCluster, what a test asks of it, and what its client hears.

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "conclave/v1/cluster.grpc.pb.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "scheduler/check.h"
#include "services/channel.h"
#include "services/grpc_status.h"
#include "services/router_node.h"
#include "tests/cluster/fake_cluster.h"

namespace conclave::services::testing {

// `model`: the directory of its tokenizer. It may not know its workers yet.
inline std::unique_ptr<RouterNode> StartRouter(const FakeCluster& cluster, const std::string& model,
                                               const Frontend::Options& frontend = {}) {
  RouterNode::Options options;
  options.frontend = frontend;
  options.adapter_wait_ms = frontend.adapter_wait.count();
  options.model = model;
  options.scheduler = cluster.scheduler_address();
  options.metrics.clear();
  auto router = RouterNode::Start(options);
  CONCLAVE_CHECK(router.ok());
  return *std::move(router);
}

inline std::unique_ptr<v1::Inference::Stub> StubOf(const RouterNode& router) {
  return v1::Inference::NewStub(MakeChannel(router.address(), Credentials()));
}

// Prompts of different lengths; those of odd seeds sample.
inline v1::GenerateRequest SeededRequest(uint64_t seed, uint32_t max_tokens) {
  v1::GenerateRequest request;
  for (uint64_t i = 0; i < 1 + seed % 40; ++i) {
    request.mutable_prompt()->mutable_tokens()->add_ids(
        static_cast<uint32_t>((seed * 31 + i * 7) % 256));
  }
  request.mutable_sampling()->set_temperature(seed % 2 == 0 ? 0.0f : 0.8f);
  request.mutable_sampling()->set_seed(seed);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  request.mutable_stopping()->set_ignore_eos(true);
  request.set_logprobs(0);
  return request;
}

struct Answer {
  grpc::Status status;
  std::vector<uint32_t> tokens;
  std::vector<float> logprobs;
  std::string text;
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
  std::string adapter;    // as the router reports it; equal answers may come by different ways
  v1::AutoChoice choice;  // likewise

  bool operator==(const Answer& other) const {
    return tokens == other.tokens && logprobs == other.logprobs && text == other.text &&
           reason == other.reason;
  }
};

// The whole stream; `heard` is called with each message.
inline Answer Listen(v1::Inference::Stub& stub, const v1::GenerateRequest& request,
                     const std::function<void(const v1::GenerateResponse&)>& heard,
                     std::chrono::seconds deadline = std::chrono::seconds(60)) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + deadline);
  const auto reader = stub.Generate(&context, request);
  Answer answer;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    for (const uint32_t token : message.token_ids()) answer.tokens.push_back(token);
    for (const auto& logprob : message.logprobs()) answer.logprobs.push_back(logprob.logprob());
    answer.text += message.text();
    answer.reason = message.finish_reason();
    answer.adapter += message.adapter();
    answer.choice.MergeFrom(message.auto_choice());
    if (heard) heard(message);
  }
  answer.status = reader->Finish();
  return answer;
}

// Likewise; `heard` counts tokens as they come.
inline Answer Generate(v1::Inference::Stub& stub, const v1::GenerateRequest& request,
                       std::atomic<size_t>* heard = nullptr) {
  return Listen(stub, request, [heard](const v1::GenerateResponse& message) {
    if (heard != nullptr) *heard += static_cast<size_t>(message.token_ids_size());
  });
}

// Asks the scheduler once.
inline absl::StatusOr<v1::AdapterOperation> AddAdapter(const FakeCluster& cluster,
                                                       const std::string& name,
                                                       const std::string& source) {
  const auto stub = v1::Cluster::NewStub(MakeChannel(cluster.scheduler_address(), Credentials()));
  v1::AddAdapterRequest request;
  request.set_name(name);
  request.set_source(source);
  grpc::ClientContext context;
  v1::AdapterOperation response;
  const absl::Status status = FromGrpc(stub->AddAdapter(&context, request, &response));
  if (!status.ok()) return status;
  return response;
}

// Workers that share the experts, beat fast and stop at no token, and a scheduler that does not
// wait long.
inline FakeCluster::Options QuickAdapters(int workers) {
  FakeCluster::Options options{.workers = workers};
  options.model.eos = -1;
  options.worker.heartbeat.period = std::chrono::milliseconds(20);
  options.scheduling.service.tick = std::chrono::milliseconds(10);
  options.scheduling.service.placement.workers = workers;
  options.scheduling.service.adapters.listen = std::chrono::milliseconds(100);
  return options;
}

}  // namespace conclave::services::testing
