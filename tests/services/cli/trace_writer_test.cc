#include "services/cli/trace_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace conclave::services::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Routing of tokens begin.. with slots t, t+1 in one layer and weights 0.25, -0.5.
v1::Routing RoutingOf(uint16_t begin, uint16_t end, uint32_t experts) {
  v1::Routing routing;
  routing.set_layers(1);
  routing.set_top_k(2);
  routing.set_experts(experts);
  routing.add_layer_indices(3);
  for (uint16_t token = begin; token < end; ++token) {
    const uint16_t slots[2] = {token, static_cast<uint16_t>(token + 1)};
    const float weights[2] = {0.25F, -0.5F};
    routing.mutable_slots()->append(reinterpret_cast<const char*>(slots), sizeof(slots));
    routing.mutable_weights()->append(reinterpret_cast<const char*>(weights), sizeof(weights));
  }
  return routing;
}

class Trace : public ::testing::Test {
 protected:
  Trace()
      : directory_(::testing::TempDir() + "trace_" +
                   ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(directory_);
  }
  ~Trace() override { std::filesystem::remove_all(directory_); }

  // The directory and what else begins with its name.
  std::vector<std::string> Beside() {
    std::vector<std::string> paths;
    for (const auto& entry : std::filesystem::directory_iterator(::testing::TempDir())) {
      if (entry.path().string().starts_with(directory_)) paths.push_back(entry.path().string());
    }
    return paths;
  }

  const std::string directory_;
};

TEST_F(Trace, IsTheDocumentedDirectory) {
  auto writer = TraceWriter::Create(directory_);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(writer->BeginMix("law", "law-adapter").ok());
  ASSERT_TRUE(writer->Add(RoutingOf(0, 2, 256)).ok());
  ASSERT_TRUE(writer->Add(RoutingOf(2, 3, 256)).ok());
  ASSERT_TRUE(writer->EndSequence(3).ok());
  ASSERT_TRUE(writer->Add(RoutingOf(9, 10, 256)).ok());
  ASSERT_TRUE(writer->EndSequence(1).ok());
  ASSERT_TRUE(writer->EndMix().ok());
  EXPECT_FALSE(std::filesystem::exists(directory_));  // not a trace yet
  ASSERT_TRUE(writer->Finish().ok());
  EXPECT_THAT(Beside(), ElementsAre(directory_));

  const std::string experts = Bytes(directory_ + "/law.experts.npy");
  ASSERT_EQ(experts.size(), 128U + 4 * 1 * 2);
  EXPECT_EQ(experts.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  EXPECT_EQ(experts.substr(8, 2), std::string("\x76\x00", 2));  // 118 bytes of header
  EXPECT_THAT(
      experts.substr(10),
      ::testing::StartsWith("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 1, 2,), } "));
  EXPECT_EQ(experts[127], '\n');
  EXPECT_EQ(experts.substr(128), std::string("\x00\x01\x01\x02\x02\x03\x09\x0A", 8));
  const std::string weights = Bytes(directory_ + "/law.weights.npy");
  EXPECT_THAT(weights, HasSubstr("'<f2', 'fortran_order': False, 'shape': (4, 1, 2,)"));
  EXPECT_EQ(weights.substr(128, 4), std::string("\x00\x34\x00\xB8", 4));
  EXPECT_EQ(weights.size(), 128U + 16);
  const std::string lengths = Bytes(directory_ + "/law.lengths.npy");
  EXPECT_THAT(lengths, HasSubstr("'<i4', 'fortran_order': False, 'shape': (2,)"));
  EXPECT_EQ(lengths.substr(128), std::string("\x03\x00\x00\x00\x01\x00\x00\x00", 8));
  EXPECT_EQ(nlohmann::json::parse(Bytes(directory_ + "/trace.json")),
            nlohmann::json::parse(R"({"experts": 256, "top_k": 2, "layers": [3],
                                      "mixes": {"law": {"adapter": "law-adapter"}}})"));
}

TEST_F(Trace, ManyExpertsTakeTwoBytes) {
  auto writer = TraceWriter::Create(directory_);
  ASSERT_TRUE(writer->BeginMix("m", "").ok());
  ASSERT_TRUE(writer->Add(RoutingOf(300, 301, 1000)).ok());
  ASSERT_TRUE(writer->EndSequence(1).ok());
  ASSERT_TRUE(writer->EndMix().ok());
  ASSERT_TRUE(writer->Finish().ok());
  const std::string experts = Bytes(directory_ + "/m.experts.npy");
  EXPECT_THAT(experts, HasSubstr("'<u2'"));
  EXPECT_EQ(experts.substr(128), std::string("\x2C\x01\x2D\x01", 4));
}

TEST_F(Trace, RoutingThatDoesNotHoldTogetherIsRefused) {
  auto writer = TraceWriter::Create(directory_);
  ASSERT_TRUE(writer->BeginMix("m", "").ok());
  v1::Routing routing = RoutingOf(0, 1, 8);
  routing.mutable_slots()->push_back('x');
  EXPECT_EQ(writer->Add(routing).code(), absl::StatusCode::kDataLoss);
  routing = RoutingOf(0, 1, 8);
  routing.mutable_weights()->resize(4);
  EXPECT_EQ(writer->Add(routing).code(), absl::StatusCode::kDataLoss);
  routing = RoutingOf(0, 1, 8);
  routing.add_layer_indices(4);
  EXPECT_EQ(writer->Add(routing).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(writer->Add(RoutingOf(0, 1, 0)).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(writer->Add(RoutingOf(0, 1, 65537)).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(writer->Add(RoutingOf(7, 8, 8)).code(), absl::StatusCode::kDataLoss);  // slot 8 of 8
  ASSERT_TRUE(writer->Add(RoutingOf(0, 1, 8)).ok());
  EXPECT_EQ(writer->Add(RoutingOf(0, 1, 9)).code(), absl::StatusCode::kDataLoss);  // changed
  EXPECT_EQ(writer->EndSequence(2).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(writer->EndSequence(1).ok());
}

TEST_F(Trace, NamesMustBeFileNamesAndDifferent) {
  auto writer = TraceWriter::Create(directory_);
  for (const char* const bad : {"", ".", "../x", "a/b", "trace", "a b"}) {
    EXPECT_EQ(writer->BeginMix(bad, "").code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_TRUE(writer->BeginMix("a-b_c.1", "").ok());
  EXPECT_EQ(writer->BeginMix("a-b_c.1", "").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Trace, WhatDoesNotBecomeATraceLeavesNothingBehind) {
  {
    auto writer = TraceWriter::Create(directory_);
    EXPECT_EQ(writer->Finish().code(), absl::StatusCode::kFailedPrecondition);
    ASSERT_TRUE(writer->BeginMix("m", "").ok());
    EXPECT_EQ(writer->EndMix().code(), absl::StatusCode::kFailedPrecondition);
    ASSERT_TRUE(writer->Add(RoutingOf(0, 1, 8)).ok());
    EXPECT_EQ(Beside().size(), 1U);
  }
  EXPECT_THAT(Beside(), ElementsAre());
}

TEST_F(Trace, TakesThePlaceOfAnEmptyDirectoryAndOfNothingElse) {
  std::filesystem::create_directory(directory_);
  {
    auto writer = TraceWriter::Create(directory_ + "/");
    ASSERT_TRUE(writer->BeginMix("m", "").ok());
    ASSERT_TRUE(writer->Add(RoutingOf(0, 1, 8)).ok());
    ASSERT_TRUE(writer->EndSequence(1).ok());
    ASSERT_TRUE(writer->EndMix().ok());
    ASSERT_TRUE(writer->Finish().ok());
  }
  EXPECT_TRUE(std::filesystem::exists(directory_ + "/trace.json"));
  EXPECT_EQ(TraceWriter::Create(directory_).status().code(), absl::StatusCode::kAlreadyExists);
  std::filesystem::remove_all(directory_);
  std::ofstream(directory_) << "a file";
  EXPECT_EQ(TraceWriter::Create(directory_).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Beside(), ElementsAre(directory_));
}

}  // namespace
}  // namespace conclave::services::cli
