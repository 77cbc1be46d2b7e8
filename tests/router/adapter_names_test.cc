#include "router/adapter_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace conclave::router {
namespace {

using State = AdapterView::State;
using Version = AdapterNames::Version;
using Why = AdapterNames::Refusal::Why;
using ::testing::HasSubstr;

AdapterNames Names(const AdapterNames::Options& options = {}) {
  std::string error;
  auto names = AdapterNames::Create(options, &error);
  EXPECT_TRUE(names) << error;
  names->SetAdapters({{"law", "aa11", "tiny", State::kActive},
                      {"intent", "bb22", "tiny", State::kActive},
                      {"old", "cc33", "tiny", State::kDraining},
                      {"new", "dd44", "tiny", State::kLoading},
                      {"both", "ee55", "tiny", State::kDraining},
                      {"both", "ee66", "tiny", State::kActive}});
  return std::move(*names);
}

AdapterNames::Asked Ask(const std::string& model, const std::string& adapter,
                        bool goes_on = false) {
  return {.tenant = "t", .model = model, .adapter = adapter, .base = "tiny", .goes_on = goes_on};
}

// NAME@DIGEST, or the message in brackets.
std::string Chosen(const AdapterNames& names, const AdapterNames::Asked& asked) {
  const auto choice = names.Choose(asked);
  if (const auto* const version = std::get_if<Version>(&choice)) return version->ToString();
  return "[" + std::get<AdapterNames::Refusal>(choice).message + "]";
}

void ExpectRefused(const AdapterNames& names, const AdapterNames::Asked& asked, Why why,
                   const std::string& message) {
  const auto choice = names.Choose(asked);
  const auto* const refusal = std::get_if<AdapterNames::Refusal>(&choice);
  ASSERT_NE(refusal, nullptr) << asked.model << " " << asked.adapter;
  EXPECT_EQ(refusal->why, why) << refusal->message;
  EXPECT_THAT(refusal->message, HasSubstr(message));
}

TEST(AdapterNames, TakesAnAdapterFromEitherField) {
  const AdapterNames names = Names();
  EXPECT_EQ(Chosen(names, Ask("", "law")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("tiny", "law")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("tiny:law", "")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("tiny:law", "law")), "law@aa11");
}

TEST(AdapterNames, GivesTheBaseModelToWhoNamesNoAdapter) {
  EXPECT_EQ(Chosen(Names(), Ask("", "")), "");
  EXPECT_EQ(Chosen(Names(), Ask("tiny", "")), "");
}

TEST(AdapterNames, RefusesTwoDifferentAdapters) {
  ExpectRefused(Names(), Ask("tiny:law", "intent"), Why::kInvalid,
                "model 'tiny:law' and adapter 'intent' name different adapters");
  ExpectRefused(Names(), Ask("tiny:law", "nobody"), Why::kUnknown, "'nobody'");
  ExpectRefused(Names(), Ask("tiny:nobody", "law"), Why::kUnknown, "'nobody'");
}

TEST(AdapterNames, RefusesWhatIsNotKnownAndSaysWhatThereIs) {
  const AdapterNames names = Names();
  ExpectRefused(names, Ask("", "lw"), Why::kUnknown,
                "adapter 'lw' is not known; there are both, intent, law");
  ExpectRefused(names, Ask("tiny:lw", ""), Why::kUnknown, "adapter 'lw'");
  ExpectRefused(names, Ask("other", "law"), Why::kUnknown,
                "model 'other' is not served here, 'tiny' is");
  ExpectRefused(names, Ask("law", ""), Why::kUnknown, "model 'law'");
  ExpectRefused(names, Ask("", "tiny"), Why::kUnknown, "adapter 'tiny'");
  ExpectRefused(AdapterNames(), Ask("", "law"), Why::kUnknown, "is not known; there are none");
}

TEST(AdapterNames, RefusesNamesThatAreNone) {
  const AdapterNames names = Names();
  ExpectRefused(names, Ask("tiny:", ""), Why::kInvalid, "'tiny:' names no adapter");
  ExpectRefused(names, Ask("", "law@"), Why::kInvalid, "'law@'");
  ExpectRefused(names, Ask("", "@aa11"), Why::kInvalid, "'@aa11'");
}

TEST(AdapterNames, ListsNoMoreThanAFew) {
  AdapterNames names = Names({.listed_max = 2});
  ExpectRefused(names, Ask("", "x"), Why::kUnknown, "there are both, intent and 1 more");
}

TEST(AdapterNames, FindsAVersionByTheBeginningOfItsDigest) {
  AdapterNames names = Names();
  EXPECT_EQ(Chosen(names, Ask("", "law@a")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("tiny:law@aa11", "")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("", "both@ee6")), "both@ee66");
  ExpectRefused(names, Ask("", "both@ee"), Why::kInvalid,
                "2 versions of adapter 'both' begin with 'ee'");
  ExpectRefused(names, Ask("", "law@b"), Why::kUnknown,
                "adapter 'law' has no version that begins with 'b'; it has aa11");
  ExpectRefused(names, Ask("", "law@aa110"), Why::kUnknown, "'aa110'");
}

TEST(AdapterNames, TakesTheVersionFromTheFieldThatGivesOne) {
  const AdapterNames names = Names();
  EXPECT_EQ(Chosen(names, Ask("tiny:law", "law@aa")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("tiny:both", "both@ee55", true)), "both@ee55");
  EXPECT_EQ(Chosen(names, Ask("tiny:both@ee66", "both")), "both@ee66");
  ExpectRefused(names, Ask("tiny:both@ee66", "both@ee55", true), Why::kInvalid, "different");
}

TEST(AdapterNames, GivesNothingNewToAVersionThatComesOrGoes) {
  const AdapterNames names = Names();
  ExpectRefused(names, Ask("", "old"), Why::kNotNow, "'old' is being removed");
  ExpectRefused(names, Ask("", "old@cc"), Why::kNotNow, "'old' is being removed");
  ExpectRefused(names, Ask("", "new"), Why::kNotNow, "'new' is being loaded");
  ExpectRefused(names, Ask("", "both@ee55"), Why::kNotNow, "'both' is being removed");
  EXPECT_EQ(Chosen(names, Ask("", "both")), "both@ee66");
}

TEST(AdapterNames, LetsARequestGoOnWithTheVersionItBeganWith) {
  const AdapterNames names = Names();
  EXPECT_EQ(Chosen(names, Ask("", "old", true)), "old@cc33");
  EXPECT_EQ(Chosen(names, Ask("", "both@ee55", true)), "both@ee55");
  ExpectRefused(names, Ask("", "both", true), Why::kInvalid,
                "'both' has more than one version: resume_from needs the adapter");
  AdapterNames::Asked asked = Ask("", "both", true);
  asked.known = Version{"both", "ee55"};
  EXPECT_EQ(Chosen(names, asked), "both@ee55");
  asked.adapter = "both@ee66";
  EXPECT_EQ(Chosen(names, asked), "both@ee66") << "it is another request";
  asked.known = Version{"gone", "ff"};
  asked.adapter = "gone";
  EXPECT_EQ(Chosen(names, asked), "gone@ff") << "whatever the cluster says";
  asked.adapter = "";
  EXPECT_EQ(Chosen(names, asked), "");
}

TEST(AdapterNames, TakesAnAliasWhereverAnAdapterIsNamedAndAsAModel) {
  const AdapterNames names =
      Names({.aliases = {"lawyer=law", "pinned=both@ee66", "law=intent", "lost=nobody"}});
  EXPECT_EQ(Chosen(names, Ask("", "lawyer")), "law@aa11") << "it is not looked up twice";
  EXPECT_EQ(Chosen(names, Ask("tiny:lawyer", "")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("lawyer", "")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("lawyer", "law@aa11")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("", "pinned")), "both@ee66");
  EXPECT_EQ(Chosen(names, Ask("", "law")), "intent@bb22") << "it stands before an adapter";
  ExpectRefused(names, Ask("", "lost"), Why::kUnknown,
                "'lost' stands for adapter 'nobody', which is not known");
}

TEST(AdapterNames, GivesATenantItsDefaultWhereTheRequestLeavesItOpen) {
  const AdapterNames names =
      Names({.aliases = {"lawyer=law"}, .defaults = {"t=lawyer", "other=gone"}});
  EXPECT_EQ(Chosen(names, Ask("", "")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("", "intent")), "intent@bb22");
  EXPECT_EQ(Chosen(names, Ask("tiny", "")), "") << "it names the base model";
  AdapterNames::Asked asked = Ask("", "");
  asked.tenant = "other";
  ExpectRefused(names, asked, Why::kUnknown, "adapter 'gone'");
  asked.tenant = "third";
  EXPECT_EQ(Chosen(names, asked), "");
}

bool Open(const AdapterNames& names, const AdapterNames::Asked& asked) {
  return std::holds_alternative<AdapterNames::Open>(names.Choose(asked));
}

TEST(AdapterNames, LeavesAutoOpen) {
  const AdapterNames names = Names();
  EXPECT_TRUE(Open(names, Ask("", "auto")));
  EXPECT_TRUE(Open(names, Ask("tiny", "auto")));
  EXPECT_TRUE(Open(names, Ask("tiny:auto", "")));
  EXPECT_TRUE(Open(names, Ask("tiny:auto", "auto")));
  EXPECT_EQ(Chosen(names, Ask("tiny:auto", "law")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("tiny:law@aa", "auto")), "law@aa11");
  ExpectRefused(names, Ask("tiny:auto", "lw"), Why::kUnknown, "'lw' is not known");
  ExpectRefused(names, Ask("", "auto@aa"), Why::kInvalid, "'auto' has no versions");
  ExpectRefused(names, Ask("tiny:auto@aa", "law"), Why::kInvalid, "'auto' has no versions");
}

TEST(AdapterNames, TakesBaseForTheBaseModel) {
  const AdapterNames names = Names({.defaults = {"t=law"}});
  EXPECT_EQ(Chosen(names, Ask("", "")), "law@aa11");
  EXPECT_EQ(Chosen(names, Ask("", "base")), "");
  EXPECT_EQ(Chosen(names, Ask("tiny:base", "")), "");
  EXPECT_EQ(Chosen(names, Ask("tiny:base", "auto")), "");
  EXPECT_EQ(Chosen(names, Ask("tiny:auto", "base")), "");
  ExpectRefused(names, Ask("tiny:law", "base"), Why::kInvalid, "name different adapters");
  ExpectRefused(names, Ask("", "base@aa"), Why::kInvalid, "'base' has no versions");
}

TEST(AdapterNames, LetsAliasesAndDefaultsStandForAuto) {
  const AdapterNames names = Names({.aliases = {"best=auto"}, .defaults = {"t=best"}});
  EXPECT_TRUE(Open(names, Ask("", "")));
  EXPECT_TRUE(Open(names, Ask("", "best")));
  EXPECT_TRUE(Open(names, Ask("best", "")));
  EXPECT_EQ(Chosen(names, Ask("best", "law")), "law@aa11");
}

TEST(AdapterNames, LeavesNothingOpenForARequestThatGoesOn) {
  const AdapterNames names = Names();
  AdapterNames::Asked asked = Ask("", "auto", /*goes_on=*/true);
  ExpectRefused(names, asked, Why::kInvalid, "or 'base' where it reported none");
  asked.known = Version{"old", "cc33"};
  ExpectRefused(names, asked, Why::kInvalid, "needs the adapter that the first message reported");
  asked.known_open = true;
  EXPECT_EQ(Chosen(names, asked), "old@cc33");
  asked.known = Version();
  EXPECT_EQ(Chosen(names, asked), "");
}

TEST(AdapterNames, ChoosesAmongActiveVersionsWhoseExpertsAreKnown) {
  std::string error;
  auto names = AdapterNames::Create({}, &error);
  ASSERT_TRUE(names) << error;
  names->SetAdapters({{"law", "aa11", "tiny", State::kActive, {1, 2}},
                      {"law", "aa10", "tiny", State::kDraining, {1}},
                      {"new", "dd44", "tiny", State::kLoading, {1}},
                      {"odd", "ee55", "tiny", State::kActive},
                      {"intent", "bb22", "tiny", State::kActive, {3}}});
  const auto active = names->active();
  ASSERT_EQ(active.size(), 2u);
  EXPECT_EQ(active[0].version.ToString(), "intent@bb22");
  EXPECT_EQ(active[1].version.ToString(), "law@aa11");
  EXPECT_EQ(active[1].replaced.size(), 2u);
}

TEST(AdapterNames, RefusesSettingsThatAreNone) {
  struct Row {
    AdapterNames::Options options;
    const char* error;
  };
  for (const Row& row :
       std::vector<Row>{{{.aliases = {"law"}}, "'law': want NAME=ADAPTER"},
                        {{.aliases = {"=law"}}, "'=law'"},
                        {{.aliases = {"law="}}, "'law='"},
                        {{.aliases = {"a=b=c"}}, "'a=b=c'"},
                        {{.aliases = {"a@b=c"}}, "an alias has no '@'"},
                        {{.aliases = {"a:b=c"}}, "'a:b'"},
                        {{.aliases = {"a=b", "a=c"}}, "there is one of that name already"},
                        {{.aliases = {"auto=law"}}, "'auto' means something else"},
                        {{.aliases = {"base=law"}}, "'base' means something else"},
                        {{.defaults = {"t=a", "t=b"}}, "'t=b'"},
                        {{.aliases = {"a=b", "b=c"}, .aliases_max = 1},
                         "2 settings of this kind, the limit is 1"},
                        {{.defaults = {"a=b", "b=c"}, .defaults_max = 1}, "the limit is 1"},
                        {{.aliases = {"a=bcde"}, .name_bytes_max = 3}, "more than 3 bytes"}}) {
    std::string error;
    EXPECT_FALSE(AdapterNames::Create(row.options, &error));
    EXPECT_THAT(error, HasSubstr(row.error));
  }
  std::string error;
  EXPECT_TRUE(
      AdapterNames::Create({.aliases = {"a=bcd"}, .aliases_max = 1, .name_bytes_max = 3}, &error));
}

}  // namespace
}  // namespace conclave::router
