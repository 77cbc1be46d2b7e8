#include "router/small_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <functional>
#include <string>

namespace conclave::router {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBytesMax = 10;

fs::path FreshDirectory() {
  std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
  for (char& c : name) c = c == '/' ? '_' : c;
  const fs::path directory = fs::path(::testing::TempDir()) / ("small_file_" + name);
  fs::remove_all(directory);
  fs::create_directories(directory);
  return directory;
}

void Write(const fs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

TEST(SmallFile, IsReadWholeUpToItsLimitAlsoThroughLinks) {
  const fs::path directory = FreshDirectory();
  const std::string content("0123\0\xff\n789", kBytesMax);
  Write(directory / "file", content);
  fs::create_symlink("file", directory / "link");
  fs::create_symlink("link", directory / "link to link");
  for (const char* name : {"file", "link", "link to link"}) {
    std::string problem = "of before";
    EXPECT_EQ(ReadSmallFile(directory / name, kBytesMax, &problem), content) << name;
    EXPECT_EQ(problem, "");
  }
}

TEST(SmallFile, IsNoProblemWhereThereIsNone) {
  const fs::path directory = FreshDirectory();
  std::string problem;
  EXPECT_FALSE(ReadSmallFile(directory / "none", kBytesMax, &problem));
  EXPECT_FALSE(ReadSmallFile(directory / "none" / "none", kBytesMax, &problem));
  EXPECT_EQ(problem, "");
}

struct BadFile {
  const char* name;
  std::function<void(const fs::path&)> make;
  const char* problem;
};

class SmallFileRefuses : public ::testing::TestWithParam<BadFile> {};

TEST_P(SmallFileRefuses, ByName) {
  const fs::path path = FreshDirectory() / "file";
  GetParam().make(path);
  std::string problem;
  EXPECT_FALSE(ReadSmallFile(path, kBytesMax, &problem));
  EXPECT_EQ(problem, GetParam().problem);
}

INSTANTIATE_TEST_SUITE_P(
    , SmallFileRefuses,
    ::testing::Values(
        BadFile{"ADirectory", [](const fs::path& path) { fs::create_directory(path); },
                "file is not a regular file"},
        BadFile{"APipe", [](const fs::path& path) { ASSERT_EQ(mkfifo(path.c_str(), 0600), 0); },
                "file is not a regular file"},
        BadFile{"ALinkToADevice",
                [](const fs::path& path) { fs::create_symlink("/dev/zero", path); },
                "file is not a regular file"},
        BadFile{"ALinkToNothing", [](const fs::path& path) { fs::create_symlink("gone", path); },
                "file is a link to nothing"},
        BadFile{"ALinkToItself", [](const fs::path& path) { fs::create_symlink("file", path); },
                "file cannot be read: Too many levels of symbolic links"},
        BadFile{"AByteTooMany",
                [](const fs::path& path) { Write(path, std::string(kBytesMax + 1, 'x')); },
                "file has 11 bytes, the limit is 10"},
        BadFile{"AFileOfManyHoles",
                [](const fs::path& path) {
                  Write(path, "");
                  fs::resize_file(path, uintmax_t{1} << 40);
                },
                "file has 1099511627776 bytes, the limit is 10"}),
    [](const auto& row) { return std::string(row.param.name); });

}  // namespace
}  // namespace conclave::router
