// `conclave up --routers 2`, and what becomes of a stream whose router is killed or stopped: the
// client goes on through the other one and has, in the end, what it would have had.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "conclave/v1/cluster.grpc.pb.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "services/channel.h"
#include "tests/cluster/ask_status.h"
#include "tests/cluster/test_process.h"
#include "tests/testing/wait_for.h"
#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using worker::testing::TempDir;

// What a client has got so far, over all its streams.
struct Got {
  std::vector<uint32_t> tokens;
  std::vector<float> logprobs;
  std::string text;
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;

  void Take(const v1::GenerateResponse& message) {
    tokens.insert(tokens.end(), message.token_ids().begin(), message.token_ids().end());
    for (const auto& logprob : message.logprobs()) logprobs.push_back(logprob.logprob());
    text += message.text();
    reason = message.finish_reason();
  }
  bool operator==(const Got& other) const {
    return tokens == other.tokens && logprobs == other.logprobs && text == other.text &&
           reason == other.reason;
  }
};

class RoutersKilled : public ::testing::Test {
 protected:
  static constexpr uint32_t kTokens = 200;
  static constexpr size_t kSeen = 30;  // tokens before the fault

  RoutersKilled() {
    worker::testing::WriteTinyDeepSeekV2(model_.path(), 1, {.eos = -1});
    up_ = std::make_unique<TestProcess>(
        CONCLAVE_BIN_DIR, "conclave",
        std::vector<std::string>{"up", "--model", model_.path(), "--routers", "2", "--threads", "1",
                                 "--worker-flag=--unsafe-failpoints=step.begin=delay:5"});
    routers_ = absl::StrSplit(up_->Word("routers"), ',');
  }

  // What one stream gets with a seed that the router chose, and the seed. `seen` is called once
  // when the client has kSeen tokens; after it, no further message is read if it returns false.
  struct Streamed {
    grpc::Status status;
    std::string id;
    std::optional<uint64_t> seed;
  };
  static Streamed Stream(const std::string& router, const v1::GenerateRequest& request, Got& got,
                         const std::function<bool()>& seen = {}) {
    const auto stub = v1::Inference::NewStub(MakeChannel(router, Credentials()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    const auto reader = stub->Generate(&context, request);
    Streamed streamed;
    bool told = !seen;
    v1::GenerateResponse message;
    while (reader->Read(&message)) {
      if (message.has_seed()) streamed.seed = message.seed();
      if (!message.request_id().empty()) streamed.id = message.request_id();
      got.Take(message);
      if (told || got.tokens.size() < kSeen) continue;
      told = true;
      if (!seen()) context.TryCancel();
    }
    streamed.status = reader->Finish();
    return streamed;
  }

  static v1::GenerateRequest Request(std::optional<uint64_t> seed = std::nullopt) {
    v1::GenerateRequest request;
    request.mutable_prompt()->set_text("once upon");
    if (seed) request.mutable_sampling()->set_seed(*seed);
    request.mutable_sampling()->set_temperature(1);
    request.mutable_stopping()->set_max_tokens(kTokens);
    request.mutable_stopping()->set_ignore_eos(true);
    request.set_logprobs(0);
    return request;
  }

  // The same request again, behind what the client has, as the first message said.
  static v1::GenerateRequest Rest(const Streamed& broken, const Got& got) {
    v1::GenerateRequest request = Request(broken.seed);
    request.set_request_id(broken.id);
    request.set_resume_from(static_cast<uint32_t>(got.tokens.size()));
    return request;
  }

  // As router `server` says.
  std::map<std::string, v1::RouterStatus> Listed(const std::string& server) {
    std::map<std::string, v1::RouterStatus> routers;
    const v1::StatusResponse status = AskStatus(server);
    for (const v1::RouterStatus& router : status.routers()) routers[router.address()] = router;
    return routers;
  }
  pid_t PidOf(const std::string& router) {
    return static_cast<pid_t>(Listed(routers_[1])[router].pid());
  }

  void ExpectWhatIsUndisturbed(const Got& got, uint64_t seed) {
    Got whole;
    EXPECT_TRUE(Stream(routers_[1], Request(seed), whole).status.ok());
    EXPECT_EQ(whole.tokens.size(), kTokens);
    EXPECT_EQ(got, whole);
  }

  const TempDir model_;
  std::unique_ptr<TestProcess> up_;
  std::vector<std::string> routers_;
};

TEST_F(RoutersKilled, AreNamedByReadyAndByEachOther) {
  EXPECT_THAT(up_->ready(),
              ::testing::MatchesRegex("ready grpc=127.0.0.1:[0-9]+ http=- metrics=127.0.0.1:[0-9]+ "
                                      "routers=127.0.0.1:[0-9]+,127.0.0.1:[0-9]+"));
  ASSERT_EQ(routers_.size(), 2U);
  EXPECT_EQ(up_->grpc(), routers_[0]);
  for (const std::string& asked : routers_) {
    const auto listed = Listed(asked);
    EXPECT_EQ(listed.size(), 2U);
    for (const std::string& router : routers_) {
      ASSERT_TRUE(listed.contains(router));
      EXPECT_EQ(listed.at(router).state(), v1::ROUTER_STATE_SERVING);
    }
  }
  EXPECT_NE(PidOf(routers_[0]), PidOf(routers_[1]));
}

TEST_F(RoutersKilled, LoseNoTokenOfAStreamThatGoesOnThroughAnother) {
  const pid_t victim = PidOf(routers_[0]);
  Got got;
  const Streamed broken = Stream(routers_[0], Request(), got, [&] {
    kill(victim, SIGKILL);
    return true;
  });
  EXPECT_EQ(broken.status.error_code(), grpc::UNAVAILABLE) << broken.status.error_message();
  ASSERT_TRUE(broken.seed.has_value());
  ASSERT_LT(got.tokens.size(), kTokens) << "the stream was over before its router was";
  const Streamed rest = Stream(routers_[1], Rest(broken, got), got);
  EXPECT_TRUE(rest.status.ok()) << rest.status.error_message();
  ExpectWhatIsUndisturbed(got, *broken.seed);

  const auto back = [&] {
    const auto listed = Listed(routers_[1]);
    const auto again = listed.find(routers_[0]);
    return again != listed.end() && again->second.state() == v1::ROUTER_STATE_SERVING &&
           again->second.pid() != victim;
  };
  EXPECT_TRUE(WaitFor(back, "the router to be back at its address"));
}

TEST_F(RoutersKilled, ChangeNothingOfWhatWentOnElsewhereWhenTheyGoOn) {
  const pid_t victim = PidOf(routers_[0]);
  Got got;
  const Streamed left = Stream(routers_[0], Request(), got, [&] {
    kill(victim, SIGSTOP);
    return false;  // the client has lost patience
  });
  EXPECT_EQ(left.status.error_code(), grpc::CANCELLED);
  ASSERT_LT(got.tokens.size(), kTokens);
  EXPECT_TRUE(
      WaitFor([&] { return Listed(routers_[1])[routers_[0]].state() == v1::ROUTER_STATE_DEAD; },
              "the stopped router to be shown dead"));
  const Streamed rest = Stream(routers_[1], Rest(left, got), got, [&] {
    kill(victim, SIGCONT);
    return true;
  });
  EXPECT_TRUE(rest.status.ok()) << rest.status.error_message();
  ExpectWhatIsUndisturbed(got, *left.seed);
  EXPECT_TRUE(
      WaitFor([&] { return Listed(routers_[1])[routers_[0]].state() == v1::ROUTER_STATE_SERVING; },
              "the router to be heard again"));
  EXPECT_TRUE(WaitFor([&] { return Listed(routers_[0])[routers_[0]].live_requests() == 0; },
                      "the router to have let go of what its client left"));
  Got again;
  EXPECT_TRUE(Stream(routers_[0], Request(left.seed), again).status.ok());
  EXPECT_EQ(again, got);
}

}  // namespace
}  // namespace conclave::services::testing
