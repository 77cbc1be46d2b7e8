#include "services/short_slice.h"

#include <gtest/gtest.h>

#include <thread>

namespace conclave::services {
namespace {

TEST(ShortSlice, IsOfTheThreadsThatAreMadeLaterAndOfNoOther) {
  const uint64_t before = ThreadSlice();
  uint64_t of_one_that_asked = 0;
  uint64_t of_its_child = 0;
  std::thread([&] {
    EXPECT_TRUE(TakeShortSlices());
    of_one_that_asked = ThreadSlice();
    std::thread([&] { of_its_child = ThreadSlice(); }).join();
  }).join();
  EXPECT_EQ(ThreadSlice(), before);
  EXPECT_EQ(of_its_child, of_one_that_asked);
  if (of_one_that_asked == 0) GTEST_SKIP() << "this kernel has no slices for ordinary threads";
  EXPECT_EQ(of_one_that_asked, kShortSliceNs);
}

}  // namespace
}  // namespace conclave::services
