#include "services/address.h"

#include <gtest/gtest.h>

namespace conclave::services {
namespace {

TEST(Address, ReadsWhatPeopleWrite) {
  for (const char* text :
       {"127.0.0.1:0", "worker-3.conclave:7000", "[::1]:65535", ":80", "0.0.0.0:1"}) {
    SCOPED_TRACE(text);
    const absl::StatusOr<Address> address = Address::Parse(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->ToString(), text);
  }
}

TEST(Address, RefusesEverythingElseByName) {
  for (const char* text : {"", "localhost", "host:", "host:-1", "host:65536", "host:1x", "::1:80",
                           "[127.0.0.1]:80", "a b:1", "http://x:1", "[::1:5"}) {
    SCOPED_TRACE(text);
    const absl::StatusOr<Address> address = Address::Parse(text);
    ASSERT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(address.status().message().find(text), absl::string_view::npos);
  }
  EXPECT_FALSE(Address::Parse(std::string(300, 'a') + ":1").ok());
}

TEST(Address, KnowsWhoCanReachIt) {
  for (const char* text : {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"}) {
    EXPECT_TRUE(Address::Parse(text)->loopback()) << text;
  }
  for (const char* text : {"0.0.0.0:1", "[::]:1", ":1"}) {
    EXPECT_TRUE(Address::Parse(text)->wildcard()) << text;
    EXPECT_FALSE(Address::Parse(text)->loopback()) << text;
  }
  EXPECT_FALSE(Address::Parse("127.0.0.1.example.org:1")->loopback());
}

TEST(Address, IsToldToOthersUnderAHostTheyCanReach) {
  EXPECT_EQ(Address::Parse("0.0.0.0:80")->As("me").ToString(), "me:80");
  EXPECT_EQ(Address::Parse("127.0.0.1:80")->As("me").ToString(), "127.0.0.1:80");
}

}  // namespace
}  // namespace conclave::services
