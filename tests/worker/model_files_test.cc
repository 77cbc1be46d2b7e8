// A directory's files: what is mapped, what is found in it, and what a digest notices.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/model/mapped_file.h"
#include "worker/model/mapped_files.h"

namespace conclave::worker {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::SafetensorsBytes;
using testing::TempDir;
using testing::TinyTensor;
using testing::WriteFileOrDie;

TinyTensor Bytes(const std::string& name, const std::string& bytes) {
  return {name, "U8", {static_cast<int64_t>(bytes.size())}, bytes};
}

std::string OpenError(const TempDir& dir, const MappedFiles::Limits& limits = {}) {
  const auto files = MappedFiles::Open(dir.path(), limits);
  return files.ok() ? "" : std::string(files.status().message());
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  TempDir dir;
  WriteFileOrDie(dir.File("empty"), "");
  EXPECT_EQ(MappedFile::Open(dir.File("none")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(MappedFile::Open(dir.File("empty")).status().message()),
              HasSubstr("empty: is empty"));
  EXPECT_THAT(std::string(MappedFile::Open(dir.path()).status().message()),
              HasSubstr("is not a regular file"));
  ASSERT_EQ(mkfifo(dir.File("pipe").c_str(), 0600), 0);
  EXPECT_THAT(std::string(MappedFile::Open(dir.File("pipe")).status().message()),
              HasSubstr("is not a regular file"));
}

TEST(MappedFile, NoticesThatItsFileChangedItsSize) {
  TempDir dir;
  WriteFileOrDie(dir.File("a"), std::string(10000, 'a'));
  const auto file = MappedFile::Open(dir.File("a"));
  ASSERT_TRUE(file.ok());
  char byte = 0;
  EXPECT_TRUE((*file)->CheckSize().ok());
  EXPECT_TRUE((*file)->ReadAt(9999, 1, &byte).ok());
  EXPECT_EQ(byte, 'a');
  ASSERT_EQ(truncate(dir.File("a").c_str(), 10), 0);
  EXPECT_EQ((*file)->CheckSize().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ((*file)->ReadAt(9999, 1, &byte).code(), absl::StatusCode::kDataLoss);
}

// Bytes of [offset, offset + count), whole pages of a file.
uint64_t InMemory(const MappedFile& file, uint64_t offset, uint64_t count) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((count + page - 1) / page);
  EXPECT_EQ(mincore(const_cast<char*>(file.data()) + offset, count, pages.data()), 0);
  const auto there = [](unsigned char one) { return (one & 1) != 0; };
  return static_cast<uint64_t>(std::count_if(pages.begin(), pages.end(), there)) * page;
}

TEST(MappedFile, BringsWhatItIsAskedForAndLittleBesides) {
  constexpr uint64_t kMiB = uint64_t{1} << 20, kSize = 300 * kMiB, kHugePage = 2 * kMiB;
  TempDir dir;
  WriteFileOrDie(dir.File("large"), "a");
  ASSERT_EQ(truncate(dir.File("large").c_str(), static_cast<off_t>(kSize)), 0);
  const auto file = MappedFile::Open(dir.File("large"));
  ASSERT_TRUE(file.ok());
  if (!(*file)->brings()) GTEST_SKIP() << "Linux before 5.18, or without huge pages";
  (*file)->Bring(64 * kMiB + 5, 10 * kMiB - 5);
  EXPECT_EQ(InMemory(**file, 64 * kMiB, 10 * kMiB), 10 * kMiB);
  EXPECT_LE(InMemory(**file, 0, kSize), 10 * kMiB + 2 * kHugePage);
  (*file)->Bring(kSize - 10, 1000);
  (*file)->Bring(kSize, 1);
  EXPECT_GT(InMemory(**file, kSize - kHugePage, kHugePage), 0);
}

TEST(MappedFile, BringsNothingOfASmallFile) {
  TempDir dir;
  WriteFileOrDie(dir.File("small"), std::string(10000, 'a'));
  const auto file = MappedFile::Open(dir.File("small"));
  ASSERT_TRUE(file.ok());
  EXPECT_FALSE((*file)->brings());
  (*file)->Bring(0, 10000);
}

TEST(MappedFiles, BringAPackedWeightAndItsScales) {
  constexpr int64_t kRows = 4096, kCols = 8192, kGroups = kCols / kGroup;
  constexpr uint64_t kMiB = uint64_t{1} << 20, kPacked = kRows * kCols / 2, kGap = 260 * kMiB;
  constexpr uint64_t kScales = kRows * kGroups;
  TempDir dir;
  const std::string header =
      absl::StrFormat(R"({"packed":{"dtype":"U8","shape":[%1$d],"data_offsets":[0,%1$d]},)"
                      R"("other":{"dtype":"U8","shape":[%2$d],"data_offsets":[%1$d,%3$d]},)"
                      R"("scales":{"dtype":"U8","shape":[%4$d],"data_offsets":[%3$d,%5$d]}})",
                      kPacked, kGap, kPacked + kGap, kScales, kPacked + kGap + kScales);
  const auto length = static_cast<uint64_t>(header.size());
  const std::string path = dir.File("model.safetensors");
  WriteFileOrDie(path, std::string(reinterpret_cast<const char*>(&length), 8) + header);
  const uint64_t size = 8 + length + kPacked + kGap + kScales;
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(size)), 0);
  const auto files = MappedFiles::Open(dir.path());
  ASSERT_TRUE(files.ok()) << files.status();
  const auto packed = (*files)->Find("packed"), scales = (*files)->Find("scales");
  if (!packed.file->brings()) GTEST_SKIP() << "Linux before 5.18, or without huge pages";
  (*files)->Bring(Weight{.data = packed.data(),
                         .type = DType::kMxFp4,
                         .rows = kRows,
                         .cols = kCols,
                         .scales = reinterpret_cast<const uint8_t*>(scales.data())});
  // Whole pages, of which the first and last are in part another's.
  constexpr uint64_t kPage = 4096;
  const uint64_t at = packed.entry->begin / kPage * kPage;
  EXPECT_EQ(InMemory(*packed.file, at, kPacked), kPacked);
  const uint64_t scales_at = (scales.entry->begin / kPage + 1) * kPage;
  EXPECT_EQ(InMemory(*packed.file, scales_at, kScales - kPage), kScales - kPage);
  EXPECT_LT(InMemory(*packed.file, at + kPacked + 4 * kMiB, kGap - 8 * kMiB), kMiB);
}

TEST(MappedFileDeathTest, EndsTheProcessNamingTheFileThatShrankUnderIt) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        TempDir dir;
        WriteFileOrDie(dir.File("shrunk"), std::string(10000, 'a'));
        const auto file = MappedFile::Open(dir.File("shrunk"));
        if (truncate(dir.File("shrunk").c_str(), 10) != 0) return;
        [[maybe_unused]] const volatile char byte = (*file)->data()[9000];
      },
      ::testing::ExitedWithCode(EXIT_FAILURE),
      AnyOf(HasSubstr("shrunk\n"), HasSubstr("Sanitizer")));
}

TEST(MappedFiles, FindsTensorsOfEveryFileOfTheDirectory) {
  TempDir dir;
  WriteFileOrDie(dir.File("b.safetensors"), SafetensorsBytes({Bytes("x", "12"), Bytes("y", "3")}));
  WriteFileOrDie(dir.File("a.safetensors"), SafetensorsBytes({Bytes("z", "456")}));
  WriteFileOrDie(dir.File("notes.txt"), "no checkpoint");
  const auto files = MappedFiles::Open(dir.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->tensors().size(), 3u);
  EXPECT_EQ((*files)->tensors()[0].entry->name, "z");
  EXPECT_EQ(std::string((*files)->Find("x").data(), 2), "12");
  EXPECT_EQ((*files)->Find("w").entry, nullptr);
}

TEST(MappedFiles, FollowsAnIndexAndIgnoresOtherFiles) {
  TempDir dir;
  WriteFileOrDie(dir.File("a.safetensors"), SafetensorsBytes({Bytes("x", "12")}));
  WriteFileOrDie(dir.File("old.safetensors"), "broken");
  WriteFileOrDie(dir.File("model.safetensors.index.json"),
                 R"({"weight_map": {"x": "a.safetensors"}})");
  EXPECT_EQ(OpenError(dir), "");
  EXPECT_THAT((*MappedFiles::Open(dir.path()))->ignored(), ElementsAre("old.safetensors"));
}

TEST(MappedFiles, ReadsModelSafetensorsAndIgnoresWhatLiesBesideIt) {
  TempDir dir;
  const std::string weights = SafetensorsBytes({Bytes("x", "12")});
  WriteFileOrDie(dir.File("model.safetensors"), weights);
  WriteFileOrDie(dir.File("consolidated.safetensors"), weights);
  WriteFileOrDie(dir.File("adapter_model.safetensors"), "broken");
  WriteFileOrDie(dir.File("model.safetensors.index.json"),
                 R"({"weight_map": {"x": "gone-00001-of-00002.safetensors"}})");
  const auto files = MappedFiles::Open(dir.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->Find("x").file->path(), dir.File("model.safetensors"));
  EXPECT_THAT((*files)->ignored(),
              ElementsAre("adapter_model.safetensors", "consolidated.safetensors"));
}

TEST(MappedFiles, ReadsConsolidatedCopiesOnlyWhereNothingElseIs) {
  TempDir dir;
  const std::string weights = SafetensorsBytes({Bytes("x", "12")});
  WriteFileOrDie(dir.File("consolidated.00.safetensors"), weights);
  auto files = MappedFiles::Open(dir.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->Find("x").file->path(), dir.File("consolidated.00.safetensors"));
  WriteFileOrDie(dir.File("model-00001-of-00001.safetensors"), weights);
  files = MappedFiles::Open(dir.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->Find("x").file->path(), dir.File("model-00001-of-00001.safetensors"));
  EXPECT_THAT((*files)->ignored(), ElementsAre("consolidated.00.safetensors"));
}

TEST(MappedFiles, RefusesFilesThatDisagree) {
  TempDir dir;
  EXPECT_THAT(OpenError(dir), HasSubstr("has 0 safetensors files, expected 1 to 1024"));
  WriteFileOrDie(dir.File("a.safetensors"), SafetensorsBytes({Bytes("x", "12")}));
  WriteFileOrDie(dir.File("b.safetensors"), SafetensorsBytes({Bytes("x", "34")}));
  EXPECT_THAT(OpenError(dir), AllOf(HasSubstr("tensor \"x\" is in both"),
                                    HasSubstr("a.safetensors"), HasSubstr("b.safetensors")));
  EXPECT_THAT(OpenError(dir, {.files = 1}), HasSubstr("has 2 safetensors files, expected 1 to 1"));
  EXPECT_THAT(OpenError(TempDir()), HasSubstr("has 0 safetensors files"));
}

TEST(MappedFiles, RefusesAnIndexThatLies) {
  TempDir dir;
  const auto error = [&](const std::string& index) {
    WriteFileOrDie(dir.File("model.safetensors.index.json"), index);
    return OpenError(dir);
  };
  WriteFileOrDie(dir.File("a.safetensors"), SafetensorsBytes({Bytes("x", "12")}));
  WriteFileOrDie(dir.File("b.safetensors"), SafetensorsBytes({Bytes("y", "34")}));
  EXPECT_EQ(
      error(
          R"({"metadata": {"total_size": 4}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})"),
      "");
  EXPECT_THAT(error("{"), HasSubstr("model.safetensors.index.json: not JSON"));
  std::filesystem::remove(dir.File("model.safetensors.index.json"));
  std::filesystem::create_symlink("gone", dir.File("model.safetensors.index.json"));
  EXPECT_THAT(OpenError(dir), HasSubstr("model.safetensors.index.json: No such file"));
  EXPECT_THAT(error("[]"), HasSubstr("weight_map is missing"));
  EXPECT_THAT(error("{}"), HasSubstr("weight_map is missing"));
  EXPECT_THAT(error(R"({"weight_map": {}})"), HasSubstr("has 0 safetensors files"));
  EXPECT_THAT(error(R"({"weight_map": {"x": 1}})"), HasSubstr("weight_map[\"x\"] is no file name"));
  for (const char* outside :
       {"../a.safetensors", "/etc/passwd", "", ".", "..", "sub/a.safetensors"}) {
    EXPECT_THAT(error(nlohmann::json{{"weight_map", {{"x", outside}}}}.dump()),
                HasSubstr("is no file of the directory"))
        << outside;
  }
  EXPECT_THAT(error(R"({"weight_map": {"x": "a.safetensors\u0000.txt"}})"),
              HasSubstr("is no file of the directory"));
  EXPECT_THAT(error(R"({"weight_map": {"x": "c.safetensors"}})"),
              HasSubstr("c.safetensors: No such file"));
  EXPECT_THAT(error(R"({"weight_map": {"x": "b.safetensors", "y": "b.safetensors"}})"),
              HasSubstr("tensor \"x\" is not in b.safetensors"));
  EXPECT_THAT(error(R"({"weight_map": {"x": "a.safetensors", "x": "b.safetensors"}})"),
              HasSubstr("key \"x\" appears twice"));
}

TEST(MappedFiles, DigestsTellCheckpointsApart) {
  TempDir dir;
  const auto digest = [&](const std::string& name, const std::string& bytes) {
    WriteFileOrDie(dir.File("a.safetensors"),
                   SafetensorsBytes({Bytes(name, bytes), Bytes("y", "12")}));
    return *MappedFiles::Digest((*MappedFiles::Open(dir.path()))->tensors());
  };
  const std::string first = digest("x", std::string(1000, 'a'));
  EXPECT_EQ(first.size(), 32u);
  EXPECT_EQ(digest("x", std::string(1000, 'a')), first);
  EXPECT_NE(digest("x", std::string(1000, 'b')), first);
  EXPECT_NE(digest("w", std::string(1000, 'a')), first);
  EXPECT_NE(digest("x", std::string(1001, 'a')), first);

  WriteFileOrDie(dir.File("a.safetensors"), SafetensorsBytes({Bytes("y", "12")}));
  WriteFileOrDie(dir.File("b.safetensors"), SafetensorsBytes({Bytes("x", std::string(1000, 'a'))}));
  EXPECT_EQ(*MappedFiles::Digest((*MappedFiles::Open(dir.path()))->tensors()), first)
      << "the same tensors in other files";
}

}  // namespace
}  // namespace conclave::worker
