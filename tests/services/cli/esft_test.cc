// conclave esft select, and what it says of traces that are wrong.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "services/cli/command.h"
#include "services/cli/trace_reader.h"
#include "services/cli/trace_writer.h"
#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::services::cli {
namespace {

namespace fs = std::filesystem;

using nlohmann::json;
using ::testing::HasSubstr;

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void Write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// A trace of two mixes of a model with experts in layers 3 and 5, 4 in each, of which a token
// chooses 2.
class EsftSelect : public ::testing::Test {
 protected:
  EsftSelect() {
    auto writer = TraceWriter::Create(trace_);
    // Layer 3: slot 1 is chosen by all, with little weight; then 3, 0 and 2.
    Add(*writer, "law", {{1, 3, 0, 1}, {1, 3, 0, 1}, {1, 0, 0, 2}, {1, 2, 0, 3}, {1, 3, 0, 3}});
    Add(*writer, "code", {{0, 1, 2, 3}});
    EXPECT_TRUE(writer->Finish().ok());
  }
  // Tokens of two layers; the second of each pair weighs three times the first.
  static void Add(TraceWriter& writer, const std::string& mix,
                  const std::vector<std::vector<uint16_t>>& tokens) {
    EXPECT_TRUE(writer.BeginMix(mix, "").ok());
    for (const std::vector<uint16_t>& token : tokens) {
      v1::Routing routing;
      routing.set_layers(2);
      routing.set_top_k(2);
      routing.set_experts(4);
      for (const uint32_t layer : {3U, 5U}) routing.add_layer_indices(layer);
      const float weights[] = {0.25F, 0.75F, 0.25F, 0.75F};
      routing.mutable_slots()->append(reinterpret_cast<const char*>(token.data()), 8);
      routing.mutable_weights()->append(reinterpret_cast<const char*>(weights), sizeof(weights));
      EXPECT_TRUE(writer.Add(routing).ok());
      EXPECT_TRUE(writer.EndSequence(1).ok());
    }
    EXPECT_TRUE(writer.EndMix().ok());
  }

  int Run(const std::vector<std::string>& flags) {
    out_.str("");
    err_.str("");
    Io io = {out_, err_};
    Arguments arguments = {"esft", "select"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return cli::Run(arguments, io);
  }
  std::string ErrorOf(const std::string& trace) {
    const auto reader = TraceReader::Open(trace);
    return reader.ok() ? "none" : std::string(reader.status().message());
  }
  // What reading all of mix law comes to.
  std::string ErrorOfReading() {
    auto reader = TraceReader::Open(trace_ + "/law");
    if (!reader.ok()) return std::string(reader.status().message());
    while (true) {
      const auto block = reader->Next();
      if (!block.ok()) return std::string(block.status().message());
      if (block->tokens == 0) return "none";
    }
  }
  void Rewrite(const std::string& name, const std::string& from, const std::string& to) {
    std::string bytes = Bytes(trace_ + "/" + name);
    ASSERT_NE(bytes.find(from), bytes.npos);
    bytes.replace(bytes.find(from), from.size(), to);
    Write(trace_ + "/" + name, bytes);
  }

  const worker::testing::TempDir dir_;
  const std::string root_ = dir_.path(), trace_ = root_ + "/trace";
  std::ostringstream out_, err_;
};

TEST_F(EsftSelect, ChoosesByTokens) {
  EXPECT_EQ(Run({"--trace", trace_ + "/law", "--score", "token", "--top-p", "0.6"}), kDone)
      << err_.str();
  EXPECT_EQ(json::parse(out_.str()), json::parse(R"({"experts": {"3": [1, 3], "5": [0, 1]},
      "shared_experts": false, "non_expert_modules": false})"));
  EXPECT_EQ(Run({"--trace", trace_ + "/law/"}), kDone);  // token and 0.2
  EXPECT_EQ(json::parse(out_.str())["experts"], json::parse(R"({"3": [1], "5": [0]})"));
}

TEST_F(EsftSelect, ChoosesByTheGatesWeights) {
  EXPECT_EQ(Run({"--trace", trace_ + "/law", "--score", "gate", "--top-p", "0.6"}), kDone)
      << err_.str();
  EXPECT_EQ(json::parse(out_.str())["experts"], json::parse(R"({"3": [3, 1], "5": [1, 3]})"));
}

TEST_F(EsftSelect, WritesAFileAtOnceInPlaceOfAnOlderOne) {
  const std::string out = root_ + "/expert_cfg.json";
  Write(out, "older");
  EXPECT_EQ(Run({"--trace", trace_ + "/code", "--out", out, "--top-p", "1", "--json"}), kDone);
  EXPECT_EQ(json::parse(Bytes(out))["experts"], json::parse(R"({"3": [0, 1], "5": [2, 3]})"));
  EXPECT_EQ(json::parse(out_.str()), json({{"out", out},
                                           {"mix", "code"},
                                           {"score", "token"},
                                           {"top_p", 1.0},
                                           {"tokens", 1},
                                           {"sequences", 1},
                                           {"layers", 2},
                                           {"experts", 4}}));
  EXPECT_EQ(std::distance(fs::directory_iterator(root_), {}), 2);
  EXPECT_EQ(Run({"--trace", trace_ + "/code", "--out", root_ + "/none/cfg"}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("cannot write"));
}

TEST_F(EsftSelect, RefusesACommandLineThatCannotBeMeant) {
  EXPECT_EQ(Run({}), kUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--trace is missing"));
  EXPECT_EQ(Run({"--trace", trace_ + "/law", "--score", "mean"}), kUsage);
  EXPECT_THAT(err_.str(), HasSubstr("want token or gate, not \"mean\""));
  for (const char* const p : {"0", "1.01", "-0.2", "nan", "much"}) {
    EXPECT_EQ(Run({"--trace", trace_ + "/law", "--top-p", p}), kUsage) << p;
    EXPECT_THAT(err_.str(), HasSubstr("top-p"));
  }
}

TEST_F(EsftSelect, AsksWhichMixIsMeant) {
  EXPECT_EQ(Run({"--trace", trace_}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("has mixes code, law: name one, as DIR/MIX"));
  EXPECT_THAT(ErrorOf(trace_ + "/tax"), HasSubstr("has no mix \"tax\", it has code, law"));
  EXPECT_THAT(ErrorOf(root_), HasSubstr("neither it nor its parent has a trace.json"));
}

TEST_F(EsftSelect, RefusesATraceWhoseFilesContradictEachOther) {
  const std::string json_file = trace_ + "/trace.json", whole = Bytes(json_file);
  struct Row {
    const char *from, *to, *error;
  };
  for (const auto& [from, to, error] : std::vector<Row>{
           {"[3,5]", "[5,3]", "layers is no ascending list"},
           {"[3,5]", "[3,5,7]", "has rows (2, 2), expected (3, 2), as trace.json says"},
           {"\"top_k\":2", "\"top_k\":0", "top_k is no number from 1 to 1024"},
           {"\"experts\":4", "\"experts\":4.5", "experts is no number from 1 to 65536"},
           {"\"mixes\":{", "\"mixes\":{\"../law\":{},", "none"},
           {"{\"experts\"", "[{\"experts\"", "not JSON"}}) {
    Rewrite("trace.json", from, to);
    EXPECT_THAT(ErrorOf(trace_ + "/law"), HasSubstr(error));
    Write(json_file, whole);
  }
  Rewrite("law.lengths.npy", std::string("\x01\0\0\0", 4), std::string("\x02\0\0\0", 4));
  EXPECT_THAT(ErrorOf(trace_ + "/law"), HasSubstr("law.lengths.npy: sums to 6 tokens, "));
  fs::copy_file(trace_ + "/code.weights.npy", trace_ + "/law.weights.npy",
                fs::copy_options::overwrite_existing);
  EXPECT_THAT(ErrorOf(trace_ + "/law"), HasSubstr("law.weights.npy: has 1 tokens, "));
  fs::remove(trace_ + "/law.weights.npy");
  EXPECT_THAT(ErrorOf(trace_ + "/law"), HasSubstr("law.weights.npy: No such file"));
}

TEST_F(EsftSelect, RefusesSlotsAndWeightsThatCannotBe) {
  EXPECT_EQ(ErrorOfReading(), "none");
  const std::string slots = trace_ + "/law.experts.npy", weights = trace_ + "/law.weights.npy";
  std::string bytes = Bytes(slots);
  bytes[128 + 6] = 4;
  Write(slots, bytes);
  EXPECT_THAT(ErrorOfReading(), HasSubstr("law.experts.npy: token 1, layer 5 has expert 4 of 4"));
  bytes[128 + 6] = 0;
  Write(slots, bytes);
  for (const auto& [half, said] : {std::pair("\x00\x7C", "weight inf"), {"\x00\xB4", "weight -"}}) {
    bytes = Bytes(weights);
    bytes.replace(128 + 4, 2, std::string(half, 2));
    Write(weights, bytes);
    EXPECT_THAT(ErrorOfReading(), HasSubstr("law.weights.npy: token 0, layer 5 has "));
    EXPECT_THAT(ErrorOfReading(), HasSubstr(said));
  }
}

TEST_F(EsftSelect, ReadsInBlocksOfNoMoreThanItMay) {
  auto reader = TraceReader::Open(trace_ + "/law", {.block_bytes = 9});  // of 4 a token
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::vector<uint64_t> blocks;
  std::vector<uint16_t> slots;
  do {
    const auto block = reader->Next();
    ASSERT_TRUE(block.ok()) << block.status();
    blocks.push_back(block->tokens);
    slots.insert(slots.end(), block->slots.begin(), block->slots.end());
  } while (blocks.back() > 0);
  EXPECT_EQ(blocks, (std::vector<uint64_t>{2, 2, 1, 0}));
  EXPECT_EQ(slots.size(), 20U);
  EXPECT_EQ(slots[5], 3);
}

}  // namespace
}  // namespace conclave::services::cli
