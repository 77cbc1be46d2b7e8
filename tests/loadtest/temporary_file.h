#pragma once
// Files of the running test's own, which go when its process ends. For tests; one thread.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <system_error>

namespace conclave::loadtest {

// A path at which there is nothing yet, the same for one test and name. No other process has it.
inline std::string TemporaryPath(const std::string& name) {
  struct Paths : std::set<std::string> {
    ~Paths() {
      std::error_code ignored;
      for (const std::string& path : *this) std::filesystem::remove(path, ignored);
    }
  };
  static Paths paths;
  const auto* const test = ::testing::UnitTest::GetInstance()->current_test_info();
  return *paths
              .insert(::testing::TempDir() + "loadtest_" + std::to_string(getpid()) + "_" +
                      test->test_suite_name() + "_" + test->name() + "_" + name)
              .first;
}

// The path of a file with the given content. A test's next file takes the place of its last one.
inline std::string TemporaryFile(const std::string& text) {
  const std::string path = TemporaryPath("file");
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

}  // namespace conclave::loadtest
