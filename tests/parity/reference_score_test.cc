// The whole pass against transformers: every checkpoint of tests/reference and the bundled model,
// scored by the engine on every dispatch level and with prefill chunks shorter and longer than the
// sequences. tests/reference/README.md has the bounds and the format.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
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

// CONCLAVE_CHECKPOINTS names another folder of checkpoints to try.
std::string CheckpointFolder() {
  if (const char* other = std::getenv("CONCLAVE_CHECKPOINTS")) return other;
  return std::string(CONCLAVE_SOURCE_DIR) + "/tests/reference/checkpoints";
}

constexpr char kBundled[] = "conclave-tiny";

std::string DirectoryOf(const std::string& name) {
  if (name == kBundled) return std::string(CONCLAVE_SOURCE_DIR) + "/deploy/model/" + kBundled;
  return CheckpointFolder() + "/" + name;
}

std::string ReferenceOf(const std::string& name) {
  if (name == kBundled) return std::string(CONCLAVE_SOURCE_DIR) + "/tests/reference/bundled.json";
  return CheckpointFolder() + "/" + name + "/reference.json";
}

std::set<std::string> Checkpoints() {
  std::set<std::string> names = {kBundled};
  for (const auto& entry : std::filesystem::directory_iterator(CheckpointFolder())) {
    if (entry.is_directory()) names.insert(entry.path().filename().string());
  }
  return names;
}

// What an engine said about each sequence.
class Scores final : public Link {
 public:
  struct Sequence {
    std::vector<float> logprobs;
    std::vector<uint16_t> slots;  // [tokens, moe layers, top k]
    bool ended = false;
  };

  void OnStep(std::vector<SequenceEvent> events) override {
    for (const SequenceEvent& event : events) {
      Sequence& sequence = sequences[event.id];
      for (const Logprob& one : event.prompt_logprobs) sequence.logprobs.push_back(one.logprob);
      sequence.slots.insert(sequence.slots.end(), event.routing.slots.begin(),
                            event.routing.slots.end());
      if (!event.end) continue;
      EXPECT_TRUE(event.end->status.ok()) << event.end->status;
      sequence.ended = true;
    }
  }

  std::map<uint64_t, Sequence> sequences;
};

std::map<uint64_t, Scores::Sequence> Score(std::shared_ptr<const Model> model,
                                           const Json& sequences, const std::string& level,
                                           int32_t chunk) {
  Engine::Options options;
  options.planner.prefill_chunk = chunk;
  options.start_thread = false;
  CpuDeviceOptions device_options = CpuDeviceOptionsFor(model->spec, options);
  device_options.level = level;
  device_options.threads = 1;
  auto device = MakeCpuDevice(device_options);
  EXPECT_TRUE(device.ok()) << device.status();
  auto engine = Engine::Create(options, std::move(model), std::move(*device));
  EXPECT_TRUE(engine.ok()) << engine.status();

  const auto link = std::make_shared<Scores>();
  for (size_t i = 0; i < sequences.size(); ++i) {
    const absl::Status status =
        (*engine)->Submit(link, {.id = i,
                                 .prompt = sequences[i]["token_ids"].get<std::vector<TokenId>>(),
                                 .prompt_logprobs = true,
                                 .routing = true});
    EXPECT_TRUE(status.ok()) << status;
  }
  while ((*engine)->Step(Engine::Now())) {
  }
  return link->sequences;
}

struct Bounds {
  double logprob_max = INFINITY;   // of any token
  double logprob_mean = INFINITY;  // over the tokens of a checkpoint
  double gap = 0;                  // up to which routing may differ
};

Bounds BoundsOf(DType type) {
  if (type == DType::kBF16) return {.logprob_mean = 0.02, .gap = 1e-2};
  return {.logprob_max = 1e-3, .gap = 1e-4};
}

struct Difference {
  double max = 0;
  double sum = 0;
  int64_t tokens = 0;
  int64_t routes = 0;        // (token, layer) pairs whose gap is clear
  int64_t routes_wrong = 0;  // of them, with another set of experts

  double mean() const { return sum / static_cast<double>(tokens); }
};

// The worst of all levels and chunks, for who reads the test's report (tests/shows
// any-checkpoint.6).
struct Worst {
  double max = 0;
  double mean = 0;
  int64_t routes = 0;
  int64_t routes_wrong = 0;

  void Take(const Difference& difference) {
    max = std::max(max, difference.max);
    mean = std::max(mean, difference.mean());
    routes = difference.routes;
    routes_wrong = std::max(routes_wrong, difference.routes_wrong);
  }
  void Record(const std::string& checkpoint, const ModelSpec& spec) const {
    const Json report = {{"name", checkpoint},
                         {"family", spec.family},
                         {"exact", spec.activation_type() == DType::kF32},
                         {"largest", max},
                         {"mean", mean},
                         {"clear", routes},
                         {"other", routes_wrong}};
    ::testing::Test::RecordProperty("parity", report.dump());
  }
};

void CompareLogprobs(const Json& reference, const Scores::Sequence& ours, Difference& difference) {
  const Json& expected = reference["logprobs"];
  ASSERT_TRUE(ours.ended);
  ASSERT_EQ(ours.logprobs.size() + 1, expected.size());
  for (size_t i = 0; i < ours.logprobs.size(); ++i) {
    ASSERT_TRUE(std::isfinite(ours.logprobs[i]));
    const double delta = std::fabs(ours.logprobs[i] - expected[i + 1].get<double>());
    difference.max = std::max(difference.max, delta);
    difference.sum += delta;
    ++difference.tokens;
  }
}

void CompareRouting(const Json& reference, const Scores::Sequence& ours, const GateShape& gate,
                    double gap, Difference& difference) {
  const Json& routing = reference["routing"];
  const size_t k = static_cast<size_t>(gate.top_k);
  const size_t tokens = reference["token_ids"].size();
  ASSERT_EQ(ours.slots.size(), tokens * routing.size() * k);
  for (size_t layer = 0; layer < routing.size(); ++layer) {
    for (size_t token = 0; token < tokens; ++token) {
      const Json& reference_gap = routing[layer]["gaps"][token];
      if (reference_gap.is_number() && reference_gap.get<double>() <= gap) continue;
      const auto first =
          ours.slots.begin() + static_cast<std::ptrdiff_t>((token * routing.size() + layer) * k);
      const std::set<uint16_t> chosen(first, first + static_cast<std::ptrdiff_t>(k));
      ++difference.routes;
      difference.routes_wrong +=
          chosen != routing[layer]["experts"][token].get<std::set<uint16_t>>();
    }
  }
}

class ReferenceScore : public ::testing::TestWithParam<std::string> {};

TEST_P(ReferenceScore, AgreesOnEveryLevelAndChunk) {
  const std::string directory = DirectoryOf(GetParam());
  const auto model = Model::Load(directory);
  ASSERT_TRUE(model.ok()) << model.status();
  std::ifstream file(ReferenceOf(GetParam()));
  const Json reference = Json::parse(file);
  const Bounds bounds = BoundsOf((*model)->spec.type);
  Worst worst;

  for (const std::string& level : CpuLevels()) {
    std::map<uint64_t, std::vector<float>> first_chunk;
    for (const int32_t chunk : {16, 64, 512}) {
      SCOPED_TRACE(level + ", prefill chunk " + std::to_string(chunk));
      auto scores = Score(*model, reference["sequences"], level, chunk);
      Difference difference;
      for (size_t i = 0; i < reference["sequences"].size(); ++i) {
        const Json& sequence = reference["sequences"][i];
        const auto first = first_chunk.emplace(i, scores[i].logprobs).first;
        EXPECT_EQ(scores[i].logprobs, first->second) << "the chunk shows in the result";
        CompareLogprobs(sequence, scores[i], difference);
        CompareRouting(sequence, scores[i], (*model)->spec.gate, bounds.gap, difference);
      }
      EXPECT_LE(difference.max, bounds.logprob_max);
      EXPECT_LE(difference.mean(), bounds.logprob_mean);
      EXPECT_GT(difference.routes, 0);
      EXPECT_EQ(difference.routes_wrong, 0) << "of " << difference.routes;
      std::printf(
          "%-14s chunk %3d: log-probabilities differ by %.2e at most, %.2e on average; "
          "%ld of %ld routes differ\n",
          level.c_str(), chunk, difference.max, difference.mean(),
          static_cast<long>(difference.routes_wrong), static_cast<long>(difference.routes));
      worst.Take(difference);
    }
  }
  worst.Record(GetParam(), (*model)->spec);
}

INSTANTIATE_TEST_SUITE_P(All, ReferenceScore, ::testing::ValuesIn(Checkpoints()),
                         [](const auto& one) {
                           std::string name = one.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace conclave::worker
