// Whole greedy generations under the options that change logits, against those that transformers'
// processors give over transformers' models (tests/reference/generations.json).

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "worker/engine.h"
#include "worker/model/model.h"

namespace conclave::worker {
namespace {

using Json = nlohmann::json;
using scheduler::TokenId;

const std::string& Folder() {
  static const auto* const folder =
      new std::string(std::string(CONCLAVE_SOURCE_DIR) + "/tests/reference");
  return *folder;
}

Json Rows() { return Json::parse(std::ifstream(Folder() + "/generations.json")); }

std::set<std::string> Checkpoints() {
  std::set<std::string> names;
  for (const Json& row : Rows()) names.insert(row["checkpoint"].get<std::string>());
  return names;
}

class Tokens final : public Link {
 public:
  void OnStep(std::vector<SequenceEvent> events) override {
    for (const SequenceEvent& event : events) {
      tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
      if (!event.end) continue;
      EXPECT_TRUE(event.end->status.ok()) << event.end->status;
    }
  }
  std::vector<TokenId> tokens;
};

SequenceRequest ToRequest(const Json& row) {
  constexpr int32_t kMaxTokens = 24;
  SequenceRequest request = {.prompt = row["prompt"].get<std::vector<TokenId>>(),
                             .repetition_penalty = row.value("repetition_penalty", 1.0f),
                             .presence_penalty = row.value("presence_penalty", 0.0f),
                             .frequency_penalty = row.value("frequency_penalty", 0.0f),
                             .max_tokens = kMaxTokens,
                             .min_tokens = row.value("min_tokens", 0),
                             .stop_tokens = row["stop_tokens"].get<std::vector<TokenId>>()};
  if (!row.contains("logit_bias")) return request;
  for (const auto& [token, bias] : row["logit_bias"].items()) {
    request.logit_bias.emplace_back(std::stoi(token), bias.get<float>());
  }
  return request;
}

class ReferenceGenerations : public ::testing::TestWithParam<std::string> {};

TEST_P(ReferenceGenerations, AreThose) {
  const auto model = Model::Load(Folder() + "/checkpoints/" + GetParam());
  ASSERT_TRUE(model.ok()) << model.status();
  const Engine::Options options = {.start_thread = false};
  for (const std::string& level : CpuLevels()) {
    CpuDeviceOptions device_options = CpuDeviceOptionsFor((*model)->spec, options);
    device_options.threads = 1;
    device_options.level = level;
    auto device = MakeCpuDevice(device_options);
    ASSERT_TRUE(device.ok()) << device.status();
    const auto engine = Engine::Create(options, *model, std::move(*device));
    ASSERT_TRUE(engine.ok()) << engine.status();
    for (const Json& row : Rows()) {
      if (row["checkpoint"] != GetParam()) continue;
      const auto link = std::make_shared<Tokens>();
      const absl::Status submitted = (*engine)->Submit(link, ToRequest(row));
      ASSERT_TRUE(submitted.ok()) << submitted;
      while ((*engine)->Step(scheduler::Micros(0))) {
      }
      EXPECT_EQ(link->tokens, row["tokens"].get<std::vector<TokenId>>()) << level << " " << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReferenceGenerations, ::testing::ValuesIn(Checkpoints()),
                         [](const auto& one) {
                           std::string name = one.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace conclave::worker
