#include "worker/prefix_keys.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace conclave::worker {
namespace {

using scheduler::BlockKey;
using scheduler::TokenId;

TEST(PrefixKeys, EqualPrefixesHaveEqualKeysBlockByBlock) {
  const PrefixKeys keys("model", "numerics", 2);
  const BlockKey root = keys.Root({});
  const std::vector<TokenId> tokens = {1, 2, 3, 4, 5};
  const std::vector<BlockKey> chain = keys.Chain(root, tokens);
  ASSERT_EQ(chain.size(), 2u) << "of full blocks only";
  EXPECT_EQ(chain[0], keys.Next(root, std::vector<TokenId>{1, 2}));
  EXPECT_EQ(chain[1], keys.Next(chain[0], std::vector<TokenId>{3, 4}));
  EXPECT_EQ(keys.Chain(root, std::vector<TokenId>{1, 2, 3, 9})[0], chain[0]);
}

TEST(PrefixKeys, EveryTokenBeforeCounts) {
  const PrefixKeys keys("model", "numerics", 2);
  const BlockKey root = keys.Root({});
  std::set<std::array<uint64_t, 4>> last;
  for (const std::vector<TokenId>& tokens :
       std::vector<std::vector<TokenId>>{{1, 2, 3, 4}, {2, 1, 3, 4}, {1, 2, 4, 3}, {3, 4, 3, 4}}) {
    last.insert(keys.Chain(root, tokens).back().words);
  }
  EXPECT_EQ(last.size(), 4u);
}

TEST(PrefixKeys, FieldsOfTheRootDoNotFlowIntoEachOther) {
  const PrefixKeys keys("model", "numerics", 4);
  std::set<std::array<uint64_t, 4>> roots;
  const std::vector<PrefixKeys::Scope> scopes = {{"", ""},   {"a", ""},  {"", "a"},   {"a", "b"},
                                                 {"ab", ""}, {"", "ab"}, {"", "", 1}, {"", "", 2}};
  for (const PrefixKeys::Scope& scope : scopes) roots.insert(keys.Root(scope).words);
  EXPECT_EQ(roots.size(), scopes.size());
}

TEST(PrefixKeys, MeanNothingToAnotherProcess) {
  const PrefixKeys one("model", "numerics", 4), other("model", "numerics", 4);
  EXPECT_NE(one.Root({}), other.Root({}));
}

}  // namespace
}  // namespace conclave::worker
