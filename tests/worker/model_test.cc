#include "worker/model/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::worker {
namespace {

using ::testing::HasSubstr;
using testing::TempDir;
using testing::TinyOptions;
using testing::WriteTinyDeepSeekV2;
using testing::WriteTinyOlmoe;

TEST(Model, LoadsATinyDeepSeekV2) {
  TempDir dir;
  WriteTinyDeepSeekV2(dir.path(), 1,
                      {.q_lora_rank = 20, .groups = 4, .top_groups = 2, .yarn = true});
  const auto model = Model::Load(dir.path());
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelSpec& spec = (*model)->spec;
  EXPECT_EQ(spec.family, "deepseek_v2");
  EXPECT_EQ(spec.attention.q_lora_rank, 20);
}

TEST(Model, LoadsATinyOlmoe) {
  TempDir dir;
  WriteTinyOlmoe(dir.path(), 1, {.type = DType::kBF16});
  const auto model = Model::Load(dir.path());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->spec.type, DType::kBF16);
}

}  // namespace
}  // namespace conclave::worker
