// What another worker says is an expert, and what is believed of it.

#include "services/expert_receiver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/sha256.h"

namespace conclave::services {
namespace {

using ::testing::HasSubstr;

constexpr char kBytes[] = "0123456789";
constexpr uint64_t kCount = 10;

v1::ExpertChunk Data(const std::string& data) {
  v1::ExpertChunk chunk;
  chunk.set_data(data);
  return chunk;
}

v1::ExpertChunk First(const std::string& data, uint64_t bytes = kCount) {
  v1::ExpertChunk chunk = Data(data);
  worker::Sha256 hash;
  hash.Add(kBytes);
  chunk.mutable_header()->set_bytes(bytes);
  chunk.mutable_header()->set_sha256(hash.Finish());
  return chunk;
}

// What is said of these messages, and nothing else, together; "OK" if they are believed.
std::string Received(const std::vector<v1::ExpertChunk>& chunks) {
  ExpertReceiver receiver("test", kCount);
  for (const v1::ExpertChunk& chunk : chunks) {
    const absl::Status taken = receiver.Take(chunk);
    if (!taken.ok()) return std::string(taken.message());
  }
  const absl::StatusOr<worker::SealedMemory> memory = receiver.Finish();
  return memory.ok() ? "OK" : std::string(memory.status().message());
}

TEST(ExpertReceiver, TakesAnExpertInOneRunOrMany) {
  EXPECT_EQ(Received({First("0123456789")}), "OK");
  EXPECT_EQ(Received({First("0"), Data("12345678"), Data("9")}), "OK");
}

TEST(ExpertReceiver, RefusesWhatIsTooLongOrTooShort) {
  EXPECT_THAT(Received({First("0123456789x")}), HasSubstr("room for 10 of 10"));
  EXPECT_THAT(Received({First("012345678"), Data("9x")}), HasSubstr("room for 1 of 10"));
  EXPECT_EQ(Received({First("012345678")}), "ended after 9 of 10 bytes");
  EXPECT_EQ(Received({}), "it ended before it began");
}

TEST(ExpertReceiver, RefusesLiesAboutSizeBeforeItTakesMemory) {
  for (const uint64_t bytes : {kCount - 1, kCount + 1, uint64_t{0}, uint64_t{1} << 63}) {
    EXPECT_THAT(Received({First("0", bytes)}), HasSubstr("the expert has 10")) << bytes;
  }
  v1::ExpertChunk chunk = First("0");
  chunk.mutable_header()->mutable_sha256()->pop_back();
  EXPECT_EQ(Received({chunk}), "it tells a digest of 31 bytes");
}

TEST(ExpertReceiver, RefusesHeadersThatAreNotFirstAndMessagesThatBringNothing) {
  EXPECT_EQ(Received({Data("0123456789")}), "it does not begin with a header");
  EXPECT_EQ(Received({First("01234"), First("56789")}), "its header comes twice");
  EXPECT_EQ(Received({First("")}), "a message brings no bytes");
  EXPECT_EQ(Received({First("0123456789"), Data("")}), "a message brings no bytes");
}

TEST(ExpertReceiver, RefusesBytesThatAreNotThoseOfTheDigest) {
  EXPECT_EQ(Received({First("0123456788")}), "its bytes are not those of its SHA-256");
}

}  // namespace
}  // namespace conclave::services
