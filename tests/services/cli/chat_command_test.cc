// conclave chat as a person or a script meets it: lines in, answers out, against a scripted router.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "services/cli/command.h"
#include "tests/services/cli/fake_router.h"

namespace conclave::services::cli {
namespace {

using conclave::testing::FakeRouter;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ChatCommand : public ::testing::Test {
 protected:
  ChatCommand() {
    router_.chat = [this](grpc::ServerContext& context, const v1::ChatRequest& request,
                          FakeRouter::GenerateWriter& writer) {
      requests_.push_back(request);
      return FakeRouter::ChatEcho(context, request, writer);
    };
  }

  int Chat(const std::string& lines, Arguments arguments = {}) {
    arguments.insert(arguments.begin(), "chat");
    arguments.push_back("--server=" + router_.address());
    out_.str("");
    err_.str("");
    std::istringstream in(lines);
    Io io = {out_, err_, false, in, interactive_};
    return cli::Run(arguments, io);
  }
  // "role: content" of each message.
  static std::vector<std::string> MessagesOf(const v1::ChatRequest& request) {
    std::vector<std::string> messages;
    for (const auto& message : request.messages()) {
      messages.push_back(message.role() + ": " + message.content());
    }
    return messages;
  }

  FakeRouter router_;
  std::vector<v1::ChatRequest> requests_;
  std::ostringstream out_, err_;
  bool interactive_ = false;
};

TEST_F(ChatCommand, AnswersEachLineAndKeepsTheConversation) {
  EXPECT_EQ(Chat("hello\n\nagain", {"--system", "be kind"}), kDone);
  EXPECT_EQ(out_.str(), "hello\nagain\n");
  EXPECT_EQ(err_.str(), "");
  ASSERT_EQ(requests_.size(), 2U);
  EXPECT_THAT(MessagesOf(requests_[0]), ElementsAre("system: be kind", "user: hello"));
  EXPECT_THAT(MessagesOf(requests_[1]),
              ElementsAre("system: be kind", "user: hello", "assistant: hello", "user: again"));
}

TEST_F(ChatCommand, HandsItsFlagsOn) {
  EXPECT_EQ(
      Chat("x\n", {"--temperature", "0.5", "--top-k", "3", "--max-tokens", "9", "--seed", "7",
                   "--adapter", "law", "--template", "rag", "--template-arguments", "{\"a\": 1}"}),
      kDone);
  const v1::ChatRequest& request = requests_.at(0);
  EXPECT_EQ(request.generate().sampling().temperature(), 0.5F);
  EXPECT_EQ(request.generate().sampling().top_k(), 3U);
  EXPECT_FALSE(request.generate().sampling().has_top_p());
  EXPECT_EQ(request.generate().sampling().seed(), 7U);
  EXPECT_EQ(request.generate().stopping().max_tokens(), 9U);
  EXPECT_EQ(request.generate().adapter(), "law");
  EXPECT_EQ(request.template_name(), "rag");
  EXPECT_EQ(request.template_arguments(), "{\"a\": 1}");
}

TEST_F(ChatCommand, TakesTheOptionsOfGenerate) {
  EXPECT_EQ(Chat("x\n", {"--min-p", "0.5", "--repetition-penalty", "1.5", "--logit-bias", "5=1",
                         "--stop", "END", "--stop-token-ids", "8,9", "--ignore-eos"}),
            kDone);
  const v1::GenerateRequest& generate = requests_.at(0).generate();
  EXPECT_EQ(generate.sampling().min_p(), 0.5F);
  EXPECT_EQ(generate.sampling().repetition_penalty(), 1.5F);
  EXPECT_EQ(generate.sampling().logit_bias().at(5), 1.0F);
  EXPECT_THAT(generate.stopping().stop(), ElementsAre("END"));
  EXPECT_THAT(generate.stopping().stop_token_ids(), ElementsAre(8U, 9U));
  EXPECT_TRUE(generate.stopping().ignore_eos());
  EXPECT_EQ(Chat("x\n", {"--logit-bias", "5"}), kUsage);
}

TEST_F(ChatCommand, PrintsTheConversationAsJson) {
  EXPECT_EQ(Chat("hi\n", {"--json"}), kDone);
  EXPECT_EQ(json::parse(out_.str()), json::parse(R"({"messages": [{"role": "user", "content": "hi"},
                                         {"role": "assistant", "content": "hi"}]})"));
}

TEST_F(ChatCommand, EndsAScriptAtTheFirstFailure) {
  router_.chat = [](grpc::ServerContext&, const v1::ChatRequest&, FakeRouter::GenerateWriter&) {
    return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "no chat template");
  };
  EXPECT_EQ(Chat("one\ntwo\n"), kFailed);
  EXPECT_EQ(router_.calls(), 1);
  EXPECT_EQ(err_.str(), "conclave chat: FAILED_PRECONDITION: no chat template\n");
}

TEST_F(ChatCommand, LetsAPersonGoOnAfterAFailureWhichTheConversationForgets) {
  interactive_ = true;
  router_.chat = [this](grpc::ServerContext& context, const v1::ChatRequest& request,
                        FakeRouter::GenerateWriter& writer) {
    requests_.push_back(request);
    if (requests_.size() > 1) return FakeRouter::ChatEcho(context, request, writer);
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "busy");
  };
  EXPECT_EQ(Chat("one\ntwo\n"), kDone);
  EXPECT_EQ(out_.str(), "two\n");
  EXPECT_THAT(err_.str(), HasSubstr("busy"));
  EXPECT_THAT(MessagesOf(requests_.at(1)), ElementsAre("user: two"));
}

TEST_F(ChatCommand, CancelsAnAnswerAtCtrlC) {
  router_.chat = [](grpc::ServerContext& context, const v1::ChatRequest&,
                    FakeRouter::GenerateWriter& writer) {
    return FakeRouter::GenerateOneThenHang(context, {}, writer);
  };
  std::thread interrupter([&] {
    while (router_.calls() == 0) std::this_thread::yield();
    kill(getpid(), SIGINT);
  });
  EXPECT_EQ(Chat("x\n"), kInterrupted);
  interrupter.join();
  EXPECT_THAT(err_.str(), HasSubstr("CANCELLED"));
}

TEST_F(ChatCommand, RefusesALineThatIsNotUtf8) {
  EXPECT_EQ(Chat("\xff\n"), kFailed);
  EXPECT_EQ(router_.calls(), 0);
  EXPECT_THAT(err_.str(), HasSubstr("the line is not UTF-8"));
}

TEST_F(ChatCommand, SaysWhatItTakes) {
  EXPECT_EQ(Chat("", {"--help"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("--system"));
  EXPECT_EQ(Chat("", {"--nope"}), kUsage);
}

}  // namespace
}  // namespace conclave::services::cli
