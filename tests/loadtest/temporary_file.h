#pragma once
// A file with the given content, of the running test's own. For tests; one thread.

#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace conclave::loadtest {

// Its path. A test's next file takes the place of its last one.
inline std::string TemporaryFile(const std::string& text) {
  const auto* const test = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::string path =
      ::testing::TempDir() + "loadtest_" + test->test_suite_name() + "_" + test->name();
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

}  // namespace conclave::loadtest
