// What a router refuses, at the edge of each limit.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "grpcpp/generic/generic_stub.h"
#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

// One bad request, sent over the wire.
struct BadRequest {
  const char* name;
  std::function<void(v1::GenerateRequest&)> change;
  std::string message;

  friend std::ostream& operator<<(std::ostream& out, const BadRequest& bad) {
    return out << bad.name;
  }
};

class RouterRefuses : public ::testing::TestWithParam<BadRequest> {
 protected:
  static void SetUpTestSuite() {
    worker_ = new FakeWorker({.context_limit = 64});
    services::Frontend::Options options;
    options.limits.prompt_bytes = 100;
    router_ = new TestRouter({worker_}, options);
  }
  static void TearDownTestSuite() {
    delete router_;
    delete worker_;
  }
  static FakeWorker* worker_;
  static TestRouter* router_;
};
FakeWorker* RouterRefuses::worker_ = nullptr;
TestRouter* RouterRefuses::router_ = nullptr;

TEST_P(RouterRefuses, WithInvalidArgument) {
  v1::GenerateRequest request = TextRequest("hello", 4);
  GetParam().change(request);
  const Stream stream = router_->Generate(request);
  EXPECT_EQ(stream.status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(stream.status.error_message(), HasSubstr(GetParam().message));
  EXPECT_TRUE(stream.messages.empty());
  EXPECT_TRUE(router_->frontend().WaitIdle(10s));
  EXPECT_EQ(worker_->counts().submits, 0u);
}

using Q = v1::GenerateRequest&;
INSTANTIATE_TEST_SUITE_P(
    All, RouterRefuses,
    ::testing::Values(
        BadRequest{"NoPrompt", [](Q q) { q.clear_prompt(); }, "prompt is missing"},
        BadRequest{"EmptyText", [](Q q) { q.mutable_prompt()->set_text(""); },
                   "prompt has no tokens"},
        BadRequest{"EmptyTokens", [](Q q) { q.mutable_prompt()->mutable_tokens(); },
                   "prompt has no tokens"},
        BadRequest{"LongText", [](Q q) { q.mutable_prompt()->set_text(std::string(101, 'a')); },
                   "prompt.text has 101 bytes, the limit is 100"},
        BadRequest{"FullContext", [](Q q) { q.mutable_prompt()->set_text(std::string(64, 'a')); },
                   "prompt has 64 tokens, the limit is 63 (the model's context is 64)"},
        BadRequest{"ForeignToken", [](Q q) { q.mutable_prompt()->mutable_tokens()->add_ids(257); },
                   "prompt.tokens[0] is 257, the vocabulary has 257 tokens"},
        BadRequest{"Temperature", [](Q q) { q.mutable_sampling()->set_temperature(-1); },
                   "sampling.temperature"},
        BadRequest{"TopP", [](Q q) { q.mutable_sampling()->set_top_p(0); }, "sampling.top_p"},
        BadRequest{"TopK", [](Q q) { q.mutable_sampling()->set_top_k(UINT32_MAX); },
                   "sampling.top_k"},
        BadRequest{"MinP", [](Q q) { q.mutable_sampling()->set_min_p(1.5f); },
                   "sampling.min_p must be from 0 to 1"},
        BadRequest{"Repetition", [](Q q) { q.mutable_sampling()->set_repetition_penalty(0); },
                   "sampling.repetition_penalty must be a finite number above 0"},
        BadRequest{"Presence", [](Q q) { q.mutable_sampling()->set_presence_penalty(3); },
                   "sampling.presence_penalty must be from -2 to 2"},
        BadRequest{"Frequency", [](Q q) { q.mutable_sampling()->set_frequency_penalty(-3); },
                   "sampling.frequency_penalty must be from -2 to 2"},
        BadRequest{"Bias", [](Q q) { (*q.mutable_sampling()->mutable_logit_bias())[1] = 200; },
                   "sampling.logit_bias[1] must be from -100 to 100"},
        BadRequest{"BiasOfAForeignToken",
                   [](Q q) { (*q.mutable_sampling()->mutable_logit_bias())[9999] = 1; },
                   "sampling.logit_bias has token 9999"},
        BadRequest{"BiasOfTooMany",
                   [](Q q) {
                     for (uint32_t i = 0; i < 100'000; ++i) {
                       (*q.mutable_sampling()->mutable_logit_bias())[i] = 1;
                     }
                   },
                   "sampling.logit_bias has 100000 tokens, the limit is 1024"},
        BadRequest{"MinTokens", [](Q q) { q.mutable_stopping()->set_min_tokens(5); },
                   "stopping.min_tokens is 5, more than max_tokens, which is 4"},
        BadRequest{"NoCompletion", [](Q q) { q.set_n(0); }, "n is 0, it must be from 1 to 32"},
        BadRequest{"TooManyCompletions", [](Q q) { q.set_n(33); },
                   "n is 33, it must be from 1 to 32"},
        BadRequest{"MaxTokens", [](Q q) { q.mutable_stopping()->set_max_tokens(0); },
                   "stopping.max_tokens is 0"},
        BadRequest{"StopEmpty", [](Q q) { q.mutable_stopping()->add_stop(""); },
                   "stopping.stop[0] is empty"},
        BadRequest{"StopToken", [](Q q) { q.mutable_stopping()->add_stop_token_ids(9999); },
                   "stopping.stop_token_ids[0] is 9999"},
        BadRequest{"Logprobs", [](Q q) { q.set_logprobs(21); }, "logprobs is 21, the limit is 20"},
        BadRequest{"RequestId", [](Q q) { q.set_request_id("a/b"); },
                   "request_id has a character"}),
    [](const auto& row) { return row.param.name; });

TEST(Router, TakesAPromptThatLeavesRoomForOneToken) {
  FakeWorker worker({.context_limit = 64});
  TestRouter router({&worker});
  const Stream stream = router.Generate(TextRequest(std::string(63, 'a'), 100));
  EXPECT_EQ(stream.tokens.size(), 1u);
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_LENGTH);
}

// Sends bytes that are no message.
grpc::Status SendRaw(TestRouter& router, const std::string& method, const std::string& bytes) {
  grpc::GenericStub stub(router.NewChannel());
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  std::mutex mutex;
  std::condition_variable done;
  std::optional<grpc::Status> status;
  stub.UnaryCall(&context, method, grpc::StubOptions(), &request, &response,
                 [&](grpc::Status ended) {
                   std::lock_guard lock(mutex);
                   status = std::move(ended);
                   done.notify_all();
                 });
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return status.has_value(); });
  return *status;
}

TEST(Router, CallsMalformedMessagesInvalid) {
  FakeWorker worker;
  TestRouter router({&worker});
  const std::string not_utf8("\x0a\x02\xff\xfe", 4);  // request_id
  const std::string cut("\x22\x7f", 2);               // a prompt of 127 bytes that are not there
  const std::string varint(11, '\xff');
  for (const std::string& bytes : {not_utf8, cut, varint}) {
    for (const char* const method : {"Generate", "Score", "Tokenize", "Detokenize", "ListModels"}) {
      if (bytes == not_utf8 && method != std::string("Generate") && method != std::string("Score"))
        continue;
      const grpc::Status status =
          SendRaw(router, std::string("/conclave.v1.Inference/") + method, bytes);
      EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT)
          << method << ": " << status.error_message();
    }
  }
  EXPECT_TRUE(router.Generate(TextRequest("x", 2)).status.ok());
}

TEST(Router, TokenisesLongPromptsElsewhereAndRefusesTooManyOfThem) {
  FakeWorker worker({.context_limit = 1 << 20});
  services::Frontend::Options options;
  options.codec.queue = 1;
  options.codec.inline_bytes = 10;
  TestRouter router({&worker}, options);
  std::atomic<int> good = 0, refused = 0, other = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 12; ++i) {
    clients.emplace_back([&] {
      const Stream stream = router.Generate(TextRequest(std::string(60000, 'a'), 2));
      const auto code = stream.status.error_code();
      ++(stream.status.ok() ? good : code == grpc::RESOURCE_EXHAUSTED ? refused : other);
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(other, 0);
  EXPECT_GE(good, 1);
  EXPECT_EQ(good + refused, 12);
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
}

}  // namespace
}  // namespace conclave::testing
