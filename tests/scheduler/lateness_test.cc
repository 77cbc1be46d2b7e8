#include "scheduler/lateness.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::scheduler {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;

constexpr Lateness::Options kOptions{.avoid_min = milliseconds(100),
                                     .avoid_max = milliseconds(800)};

// How long a peer that is late at `now` is avoided.
Micros Avoided(Lateness& lateness, Micros now) {
  EXPECT_TRUE(lateness.NoteLate(0, now));
  Micros end = now;
  while (lateness.Avoids(0, end)) end += milliseconds(1);
  return end - now;
}

TEST(Lateness, AvoidsNobodyWhoWasNotLate) {
  Lateness lateness(kOptions);
  EXPECT_FALSE(lateness.Avoids(0, milliseconds(0)));
  lateness.NoteLate(3, milliseconds(5));
  EXPECT_FALSE(lateness.Avoids(2, milliseconds(5)));
  EXPECT_FALSE(lateness.Avoids(4, milliseconds(5)));
  EXPECT_TRUE(lateness.Avoids(3, milliseconds(5)));
  EXPECT_FALSE(lateness.Avoids(3, milliseconds(105)));
  EXPECT_FALSE(lateness.Avoids(-1, milliseconds(5))) << "that is nobody";
}

TEST(Lateness, AsksAgainAfterABoundedTime) {
  Lateness lateness(kOptions);
  EXPECT_TRUE(lateness.NoteLate(0, milliseconds(1000)));
  EXPECT_TRUE(lateness.Avoids(0, milliseconds(1100) - Micros(1)));
  EXPECT_FALSE(lateness.Avoids(0, milliseconds(1100)));
}

TEST(Lateness, LearnsNothingFromWhatIsOwedWhileAvoided) {
  Lateness lateness(kOptions);
  EXPECT_TRUE(lateness.NoteLate(0, milliseconds(0)));
  EXPECT_FALSE(lateness.NoteLate(0, milliseconds(99)));
  EXPECT_FALSE(lateness.Avoids(0, milliseconds(100)));
}

TEST(Lateness, DoublesForWhoIsLateAgainSoonUpToItsBound) {
  Lateness lateness(kOptions);
  Micros now{0};
  for (const int expected : {100, 200, 400, 800, 800}) {
    const Micros avoided = Avoided(lateness, now);
    EXPECT_EQ(avoided, milliseconds(expected));
    now += avoided + milliseconds(1);
  }
}

TEST(Lateness, TellsWhoIsLateAgainAndAgainFromWhoWasLateOnce) {
  Lateness lateness(kOptions);
  Micros now{0};
  for (int i = 0; i < 3; ++i) now += Avoided(lateness, now);
  lateness.NoteLate(0, now);
  lateness.NoteLate(1, now);
  EXPECT_TRUE(lateness.Avoids(0, now));
  EXPECT_TRUE(lateness.Avoids(1, now));
  EXPECT_THAT(lateness.Lasting(now, milliseconds(100)), ElementsAre(0, 1));
  EXPECT_THAT(lateness.Lasting(now, milliseconds(800)), ElementsAre(0));
  EXPECT_THAT(lateness.Lasting(now, milliseconds(801)), ElementsAre());
}

TEST(Lateness, ClearsWhoWasLateAgainAndAgainOnlyAfterAsLongWithoutIt) {
  Lateness lateness(kOptions);
  Micros now{0};
  for (int i = 0; i < 4; ++i) now += Avoided(lateness, now);
  // 800 ms were the last: it is asked again, and still held late.
  EXPECT_FALSE(lateness.Avoids(0, now));
  EXPECT_THAT(lateness.Lasting(now, milliseconds(800)), ElementsAre(0));
  EXPECT_THAT(lateness.Lasting(now + milliseconds(799), milliseconds(800)), ElementsAre(0));
  EXPECT_THAT(lateness.Lasting(now + milliseconds(800), milliseconds(800)), ElementsAre());
}

TEST(Lateness, ForgetsByHalvesWhileAPeerIsNotLate) {
  Lateness lateness(kOptions);
  Micros now{0};
  for (int i = 0; i < 3; ++i) now += Avoided(lateness, now);
  // 400 ms were the last. Prompt for as long, it is avoided as long again; for twice as long, half.
  now += milliseconds(400);
  EXPECT_EQ(Avoided(lateness, now), milliseconds(400));
  now += milliseconds(400 + 800);
  EXPECT_EQ(Avoided(lateness, now), milliseconds(200));
  now += std::chrono::hours(24 * 365 * 100);
  EXPECT_EQ(Avoided(lateness, now), milliseconds(100));
}

}  // namespace
}  // namespace conclave::scheduler
