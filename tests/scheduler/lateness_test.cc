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

TEST(Lateness, TellsWhoIsSlowFromWhoWasLateOnce) {
  Lateness lateness(kOptions);
  lateness.NoteLate(0, milliseconds(0));
  lateness.NoteLate(1, milliseconds(0));
  EXPECT_THAT(lateness.Slow(milliseconds(0)), ElementsAre());
  lateness.NoteLate(0, milliseconds(100));
  for (int i = 0; i < 10; ++i) lateness.NotePrompt(1);
  lateness.NoteLate(1, milliseconds(100));
  EXPECT_THAT(lateness.Slow(milliseconds(100)), ElementsAre(0));
}

TEST(Lateness, HoldsForSlowWhoIsLateOnceInAFewAnswers) {
  Lateness lateness(kOptions);
  Micros now{0};
  for (int round = 0; round < 10; ++round) {
    now += Avoided(lateness, now);
    if (round > 3) {
      EXPECT_THAT(lateness.Slow(now), ElementsAre(0)) << "it is asked again";
    }
    for (int i = 0; i < 5; ++i) lateness.NotePrompt(0);
  }
}

TEST(Lateness, ClearsWhoAnswersInTimeAgainOrIsNotAsked) {
  Lateness lateness(kOptions);
  for (int peer : {0, 1}) {
    for (int i = 0; i < 3; ++i) lateness.NoteLate(peer, milliseconds(0));
  }
  EXPECT_THAT(lateness.Slow(milliseconds(100)), ElementsAre(0, 1));
  for (int i = 0; i < 5; ++i) lateness.NotePrompt(0);
  EXPECT_THAT(lateness.Slow(milliseconds(100)), ElementsAre(1));
  EXPECT_THAT(lateness.Slow(milliseconds(899)), ElementsAre(1));
  EXPECT_THAT(lateness.Slow(milliseconds(900)), ElementsAre());
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
