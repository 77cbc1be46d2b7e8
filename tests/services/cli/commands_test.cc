// What the commands print, and how they end.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>

#include "services/cli/scoring.h"
#include "services/grpc_status.h"
#include "tests/services/cli/commands_fixture.h"
#include "tests/testing/wait_for.h"

namespace conclave::services::cli {
namespace {

using conclave::testing::FakeLogprob;
using conclave::testing::FakeRouter;
using conclave::testing::WaitFor;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(Commands, GeneratePrintsTheTextAndOneLineBreak) {
  EXPECT_EQ(Call({"generate", "--prompt", "x", "--max-tokens", "5"}), kDone);
  EXPECT_EQ(out_.str(), "abcde\n");
  EXPECT_EQ(err_.str(), "");
}

TEST_F(Commands, TextTellsOfWhatDependsOnThePlacementBesideIt) {
  router_.generate = [](grpc::ServerContext&, const v1::GenerateRequest&,
                        FakeRouter::GenerateWriter& writer) {
    v1::GenerateResponse all;
    all.set_text("text");
    all.set_finish_reason(v1::FINISH_REASON_STOP);
    all.add_policies(v1::POLICY_PARTIAL_SUMS);
    writer.Write(all);
    return grpc::Status::OK;
  };
  router_.score = [](grpc::ServerContext& context, const v1::ScoreRequest& request,
                     FakeRouter::ScoreWriter& writer) {
    v1::ScoreResponse marked;
    marked.add_policies(v1::POLICY_PARTIAL_SUMS);
    writer.Write(marked);
    return FakeRouter::ScoreBytes(context, request, writer);
  };
  const std::string mark = "partial_sums (results depend on the placement of experts too)\n";
  EXPECT_EQ(Call({"generate", "--prompt", "x"}), kDone);
  EXPECT_EQ(out_.str(), "text\n");
  EXPECT_EQ(err_.str(), "conclave generate: policies: " + mark);
  EXPECT_EQ(Call({"generate", "--prompt", "x", "--json"}), kDone);
  EXPECT_EQ(err_.str(), "");
  EXPECT_EQ(Call({"score", "--text", "xyz"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("policies       " + mark));
}

TEST_F(Commands, GeneratePrintsTextBeforeTheStreamIsComplete) {
  router_.generate = [&](grpc::ServerContext&, const v1::GenerateRequest&,
                         FakeRouter::GenerateWriter& writer) {
    v1::GenerateResponse delta;
    delta.set_text("half");
    writer.Write(delta);
    return grpc::Status(grpc::StatusCode::INTERNAL, "broke");
  };
  EXPECT_EQ(Call({"generate", "--prompt", "x"}), kFailed);
  EXPECT_EQ(out_.str(), "half\n");
  EXPECT_EQ(err_.str(), "conclave generate: INTERNAL: broke\n");
  EXPECT_EQ(Call({"generate", "--prompt", "x", "--json"}), kFailed);
  EXPECT_EQ(out_.str(), "");  // half a document would be none
}

TEST_F(Commands, GenerateAsJsonIsTheDocumentedDocument) {
  EXPECT_EQ(
      Call({"generate", "--token-ids", "1,2,3", "--max-tokens", "3", "--logprobs", "0", "--seed",
            "18446744073709551615", "--request-id", "mine", "--cache-salt", "ab", "--json"}),
      kDone);
  const json document = Document();
  EXPECT_EQ(document["text"], "abc");
  EXPECT_EQ(document["token_ids"], json({97, 98, 99}));
  EXPECT_EQ(document["finish_reason"], "length");
  EXPECT_EQ(document["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(document["usage"]["completion_tokens"], 3);
  EXPECT_EQ(document["usage"]["cached_prompt_tokens"], 2);  // the fake says how long the salt was
  EXPECT_EQ(document["seed"], UINT64_MAX);
  EXPECT_EQ(document["request_id"], "mine");
  ASSERT_EQ(document["logprobs"].size(), 3U);
  EXPECT_EQ(static_cast<float>(document["logprobs"][1].get<double>()), FakeLogprob('b'));
  EXPECT_GE(document["timing"]["ttft_ms"].get<double>(), 0);
  EXPECT_GE(document["timing"]["tpot_ms"].get<double>(), 0);
  EXPECT_EQ(out_.str().find('\n'), out_.str().size() - 1);  // one line

  EXPECT_EQ(Call({"generate", "--prompt", "x", "--max-tokens", "1", "--json"}), kDone);
  EXPECT_TRUE(Document()["logprobs"].is_null());
  EXPECT_TRUE(Document()["timing"]["tpot_ms"].is_null());
}

// n completions, message by message in turns, each saying its number.
grpc::Status GenerateNumbers(grpc::ServerContext&, const v1::GenerateRequest& request,
                             FakeRouter::GenerateWriter& writer) {
  for (uint32_t turn = 0; turn < 2; ++turn) {
    for (uint32_t index = 0; index < std::max(request.n(), 1u); ++index) {
      v1::GenerateResponse message;
      message.set_index(index);
      message.set_text(std::to_string(index * 10 + turn) + " ");
      message.add_token_ids(index);
      if (turn == 0) message.set_seed(100 + index);
      if (turn == 1) message.set_finish_reason(v1::FINISH_REASON_LENGTH);
      writer.Write(message);
    }
  }
  return grpc::Status::OK;
}

TEST_F(Commands, GeneratePrintsEveryCompletionWhole) {
  router_.generate = GenerateNumbers;
  EXPECT_EQ(Call({"generate", "--prompt", "x", "--n", "3"}), kDone);
  EXPECT_EQ(out_.str(), "[0]\n0 1 \n[1]\n10 11 \n[2]\n20 21 \n");
  EXPECT_EQ(Call({"generate", "--prompt", "x", "--n", "2", "--json"}), kDone);
  const json completions = Document()["completions"];
  ASSERT_EQ(completions.size(), 2U);
  EXPECT_EQ(completions[1]["text"], "10 11 ");
  EXPECT_EQ(completions[1]["token_ids"], json({1, 1}));
  EXPECT_EQ(completions[1]["seed"], 101);
  EXPECT_EQ(completions[0]["finish_reason"], "length");
}

TEST_F(Commands, GenerateFailsWhenACompletionIsMissingOrForeign) {
  router_.generate = [](grpc::ServerContext& context, const v1::GenerateRequest& request,
                        FakeRouter::GenerateWriter& writer) {
    v1::GenerateRequest one = request;
    one.set_n(request.n() - 1);
    return GenerateNumbers(context, one, writer);
  };
  EXPECT_EQ(Call({"generate", "--prompt", "x", "--n", "3"}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("without a finish reason"));
  router_.generate = [](grpc::ServerContext& context, const v1::GenerateRequest&,
                        FakeRouter::GenerateWriter& writer) {
    v1::GenerateRequest one;
    one.set_n(2);
    return GenerateNumbers(context, one, writer);
  };
  EXPECT_EQ(Call({"generate", "--prompt", "x"}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("completion 1 of 1"));
}

TEST_F(Commands, GenerateRefusesABiasThatIsNone) {
  for (const std::string bias : {"", "5", "5=", "=1", "x=1", "5=y", "-1=1", "4294967296=1"}) {
    EXPECT_EQ(Call({"generate", "--prompt", "x", "--logit-bias=" + bias}), kUsage) << bias;
    EXPECT_THAT(err_.str(),
                HasSubstr("--logit-bias \"" + bias + "\" is not ID=X, a token id and a number"));
  }
  EXPECT_EQ(router_.calls(), 0);
}

TEST_F(Commands, GenerateRefusesStopTokensThatAreNone) {
  EXPECT_EQ(Call({"generate", "--prompt", "x", "--stop-token-ids=1,x"}), kUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--stop-token-ids: token ids: \"x\""));
  EXPECT_EQ(router_.calls(), 0);
}

TEST_F(Commands, GenerateSendsWhatItWasToldAndLeavesTheRestToTheServer) {
  v1::GenerateRequest seen;
  router_.generate = [&](grpc::ServerContext& context, const v1::GenerateRequest& request,
                         FakeRouter::GenerateWriter& writer) {
    seen = request;
    return FakeRouter::GenerateAlphabet(context, request, writer);
  };
  ASSERT_EQ(Call({"generate", "--prompt", "p"}), kDone);
  EXPECT_FALSE(seen.sampling().has_temperature());
  EXPECT_FALSE(seen.sampling().has_top_p());
  EXPECT_FALSE(seen.sampling().has_top_k());
  EXPECT_FALSE(seen.sampling().has_seed());
  EXPECT_FALSE(seen.sampling().has_min_p());
  EXPECT_FALSE(seen.sampling().has_repetition_penalty());
  EXPECT_FALSE(seen.sampling().has_presence_penalty());
  EXPECT_FALSE(seen.sampling().has_frequency_penalty());
  EXPECT_EQ(seen.sampling().logit_bias_size(), 0);
  EXPECT_FALSE(seen.stopping().has_max_tokens());
  EXPECT_FALSE(seen.stopping().has_min_tokens());
  EXPECT_FALSE(seen.has_logprobs());

  ASSERT_EQ(Call({"generate",
                  "--prompt",
                  "p",
                  "--adapter",
                  "law",
                  "--temperature",
                  "0.5",
                  "--top-p",
                  "0.9",
                  "--top-k",
                  "0",
                  "--seed",
                  "4",
                  "--min-p",
                  "0.05",
                  "--repetition-penalty",
                  "1.5",
                  "--presence-penalty",
                  "-2",
                  "--frequency-penalty",
                  "0.25",
                  "--logit-bias",
                  "5=-1.5",
                  "--logit-bias",
                  "17=100",
                  "--min-tokens",
                  "3",
                  "--stop",
                  "\n",
                  "--stop",
                  "END",
                  "--stop-token-ids",
                  "7,9",
                  "--logprobs",
                  "2",
                  "--ignore-eos",
                  "--parse-special",
                  "--no-added-tokens"}),
            kDone);
  EXPECT_EQ(seen.adapter(), "law");
  EXPECT_EQ(seen.sampling().temperature(), 0.5F);
  EXPECT_EQ(seen.sampling().top_p(), 0.9F);
  EXPECT_TRUE(seen.sampling().has_top_k());
  EXPECT_EQ(seen.sampling().seed(), 4U);
  EXPECT_EQ(seen.sampling().min_p(), 0.05F);
  EXPECT_EQ(seen.sampling().repetition_penalty(), 1.5F);
  EXPECT_EQ(seen.sampling().presence_penalty(), -2.0F);
  EXPECT_EQ(seen.sampling().frequency_penalty(), 0.25F);
  ASSERT_EQ(seen.sampling().logit_bias_size(), 2);
  EXPECT_EQ(seen.sampling().logit_bias().at(5), -1.5F);
  EXPECT_EQ(seen.sampling().logit_bias().at(17), 100.0F);
  EXPECT_EQ(seen.stopping().min_tokens(), 3U);
  EXPECT_EQ(seen.stopping().stop_size(), 2);
  ASSERT_EQ(seen.stopping().stop_token_ids_size(), 2);
  EXPECT_EQ(seen.stopping().stop_token_ids(1), 9U);
  EXPECT_TRUE(seen.stopping().ignore_eos());
  EXPECT_EQ(seen.logprobs(), 2U);
  EXPECT_TRUE(seen.prompt().parse_special());
  EXPECT_TRUE(seen.prompt().no_added_tokens());
}

TEST_F(Commands, GeneratePrintsTheIdsOfTokensThatComeWithoutText) {
  router_.generate = [](grpc::ServerContext&, const v1::GenerateRequest&,
                        FakeRouter::GenerateWriter& writer) {
    v1::GenerateResponse delta;
    delta.add_token_ids(7);
    delta.add_token_ids(11);
    delta.set_finish_reason(v1::FINISH_REASON_LENGTH);
    writer.Write(delta);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Call({"generate", "--token-ids", "1"}), kDone);
  EXPECT_EQ(out_.str(), "7,11\n");
  EXPECT_THAT(err_.str(), HasSubstr("no text came with these tokens"));
}

TEST_F(Commands, GenerateTakesPromptBytesFromAFileAsTheyAre) {
  const std::string path = ::testing::TempDir() + "prompt_bytes";
  const std::string bytes("a\0\xFF\n", 4);
  std::ofstream(path, std::ios::binary) << bytes;
  std::string seen;
  router_.generate = [&](grpc::ServerContext& context, const v1::GenerateRequest& request,
                         FakeRouter::GenerateWriter& writer) {
    seen = request.prompt().text();
    return FakeRouter::GenerateAlphabet(context, request, writer);
  };
  EXPECT_EQ(Call({"generate", "--prompt-file", path}), kDone);
  EXPECT_EQ(seen, bytes);
}

TEST_F(Commands, AStreamWithoutAFinishReasonIsAnErrorNotAnAnswer) {
  router_.generate = [](grpc::ServerContext&, const v1::GenerateRequest&,
                        FakeRouter::GenerateWriter& writer) {
    v1::GenerateResponse delta;
    delta.set_text("cut");
    writer.Write(delta);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Call({"generate", "--prompt", "x", "--json"}), kFailed);
  EXPECT_EQ(out_.str(), "");
  EXPECT_THAT(err_.str(), HasSubstr("DATA_LOSS: the stream ended without a finish reason"));
}

TEST_F(Commands, ATerminalIsNotSteeredByText) {
  router_.generate = [](grpc::ServerContext&, const v1::GenerateRequest&,
                        FakeRouter::GenerateWriter& writer) {
    v1::GenerateResponse delta;
    delta.set_text("\x1b[2Jb€");
    delta.set_finish_reason(v1::FINISH_REASON_STOP);
    writer.Write(delta);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Call({"generate", "--prompt", "x"}), kDone);
  EXPECT_EQ(out_.str(), "\x1b[2Jb€\n");  // a file or pipe gets the bytes
  terminal_ = true;
  EXPECT_EQ(Call({"generate", "--prompt", "x"}), kDone);
  EXPECT_EQ(out_.str(), "\\x1b[2Jb€\n");
}

TEST_F(Commands, ErrorsNameCodeAndMessageAndWhenToComeBack) {
  router_.generate = [](grpc::ServerContext& context, const v1::GenerateRequest&,
                        FakeRouter::GenerateWriter&) {
    SetRetryPushback(context, std::chrono::milliseconds(250));
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue is \x1b[31mfull");
  };
  EXPECT_EQ(Call({"generate", "--prompt", "x", "--json"}), kFailed);
  EXPECT_EQ(out_.str(), "");
  EXPECT_EQ(
      err_.str(),
      "conclave generate: RESOURCE_EXHAUSTED: queue is \\x1b[31mfull (try again in 250 ms)\n");
}

TEST_F(Commands, ADeadlineEndsACallThatHangs) {
  router_.generate = FakeRouter::GenerateOneThenHang;
  EXPECT_EQ(Call({"generate", "--prompt", "x", "--timeout", "0.3"}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("DEADLINE_EXCEEDED"));
}

TEST_F(Commands, CtrlCCancelsTheCall) {
  std::atomic<bool> cancelled{false};
  router_.generate = [&](grpc::ServerContext& context, const v1::GenerateRequest& request,
                         FakeRouter::GenerateWriter& writer) {
    const grpc::Status status = FakeRouter::GenerateOneThenHang(context, request, writer);
    cancelled = true;
    return status;
  };
  std::thread interrupter([&] {
    EXPECT_TRUE(WaitFor([&] { return router_.calls() > 0; }, "the call to arrive"));
    kill(getpid(), SIGINT);
  });
  EXPECT_EQ(Call({"generate", "--prompt", "x"}), kInterrupted);
  interrupter.join();
  EXPECT_TRUE(WaitFor([&] { return cancelled.load(); }, "the router to see the cancellation"));
  EXPECT_THAT(err_.str(), HasSubstr("CANCELLED"));
}

TEST_F(Commands, NobodyListeningIsUnavailable) {
  EXPECT_EQ(RunAlone({"generate", "--prompt", "x", "--server", "127.0.0.1:1"}), kFailed);
  EXPECT_THAT(err_.str(), StartsWith("conclave generate: UNAVAILABLE: "));
}

TEST_F(Commands, ScoreGivesEveryTokenItsLogProbability) {
  EXPECT_EQ(Call({"score", "--text", "abc", "--json"}), kDone);
  const json document = Document();
  EXPECT_EQ(document["token_ids"], json({97, 98, 99}));
  EXPECT_EQ(document["policies"], json::array());
  ASSERT_EQ(document["logprobs"].size(), 3U);
  EXPECT_TRUE(document["logprobs"][0].is_null());
  EXPECT_EQ(static_cast<float>(document["logprobs"][2].get<double>()), FakeLogprob('c'));
  const double sum = FakeLogprob('b') + FakeLogprob('c');
  EXPECT_NEAR(document["perplexity"].get<double>(), std::exp(-sum / 2), 1e-6);
  // Two scored tokens of one byte each.
  EXPECT_NEAR(document["bits_per_byte"].get<double>(), -sum / 2 / std::log(2), 1e-6);

  EXPECT_EQ(Call({"score", "--token-ids", "97,98,99", "--json"}), kDone);
  EXPECT_EQ(Document()["perplexity"], document["perplexity"]);
  EXPECT_FALSE(Document().contains("bits_per_byte"));  // ids have no bytes
}

TEST_F(Commands, ScoreOfOneTokenHasNoPerplexity) {
  EXPECT_EQ(Call({"score", "--token-ids", "5", "--json"}), kDone);
  EXPECT_EQ(Document()["logprobs"], json::parse("[null]"));
  EXPECT_TRUE(Document()["perplexity"].is_null());
  EXPECT_EQ(Call({"score", "--text", "", "--json"}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("no token to score"));
}

TEST_F(Commands, ScoreCutsLongTextsIntoWindows) {
  const std::string text(200, 'q');
  EXPECT_EQ(Call({"score", "--text", text}), kFailed);  // the context is 64
  EXPECT_THAT(err_.str(), HasSubstr("INVALID_ARGUMENT: prompt has 200 tokens, the limit is 64"));

  EXPECT_EQ(Call({"score", "--text", text, "--window", "64", "--json"}), kDone);
  json document = Document();
  EXPECT_EQ(document["windows"], 4);
  EXPECT_EQ(document["scored"], 196);
  for (const size_t first : {0, 64, 128, 192}) EXPECT_TRUE(document["logprobs"][first].is_null());
  EXPECT_NEAR(document["perplexity"].get<double>(), std::exp(-FakeLogprob('q')), 1e-6);

  EXPECT_EQ(Call({"score", "--text", text, "--window", "64", "--stride", "32", "--json"}), kDone);
  document = Document();
  EXPECT_EQ(document["scored"], 199);
  EXPECT_EQ(document["logprobs"].size(), 200U);
  EXPECT_NEAR(document["bits_per_byte"].get<double>(), -FakeLogprob('q') / std::log(2), 1e-6);
}

TEST_F(Commands, ScoreTokenisesATextThatIsTooLongForARequestInPieces) {
  std::vector<v1::Prompt> pieces;
  router_.on_tokenize = [&](const v1::Prompt& piece) { pieces.push_back(piece); };
  router_.score = [](grpc::ServerContext&, const v1::ScoreRequest&, FakeRouter::ScoreWriter&) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "enough seen");
  };
  const std::string path = ::testing::TempDir() + "long_text";
  const std::string text = std::string(kPieceBytes - 2, 'a') + "\n" + std::string(10, 'b');
  std::ofstream(path, std::ios::binary) << text;
  EXPECT_EQ(Call({"score", "--file", path, "--window", "64"}), kFailed);
  ASSERT_EQ(pieces.size(), 2U);
  EXPECT_EQ(pieces[0].text() + pieces[1].text(), text);
  EXPECT_EQ(pieces[1].text(), std::string(10, 'b'));
  EXPECT_FALSE(pieces[0].no_added_tokens());  // the beginning of a sequence comes once
  EXPECT_TRUE(pieces[1].no_added_tokens());
}

TEST_F(Commands, ScoresThatDoNotFitTheirTokensAreAnError) {
  router_.score = [](grpc::ServerContext&, const v1::ScoreRequest&,
                     FakeRouter::ScoreWriter& writer) {
    v1::ScoreResponse response;
    response.add_token_ids(1);
    response.add_token_ids(2);
    response.set_done(true);
    writer.Write(response);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Call({"score", "--text", "ab"}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("DATA_LOSS: 2 tokens came with 0 log-probabilities"));
}

TEST_F(Commands, TokenizeAndDetokenizeRoundTrip) {
  EXPECT_EQ(Call({"tokenize", "--text", "aé"}), kDone);
  EXPECT_EQ(out_.str(), "97,195,169\n");
  EXPECT_EQ(Call({"detokenize", "--token-ids", "97,195,169"}), kDone);
  EXPECT_EQ(out_.str(), "aé");
  EXPECT_EQ(Call({"tokenize", "--text", "é", "--json"}), kDone);
  EXPECT_EQ(Document()["token_ids"], json({195, 169}));
  EXPECT_EQ(Document()["tokens_hex"], json({"c3", "a9"}));
  EXPECT_EQ(Call({"detokenize", "--token-ids", "195", "--json"}), kDone);
  EXPECT_EQ(Document()["text_hex"], "c3");
  EXPECT_EQ(Call({"detokenize", "--token-ids", "999", "--json"}), kFailed);
  EXPECT_EQ(err_.str(), "conclave detokenize: INVALID_ARGUMENT: no such token\n");
}

TEST_F(Commands, StatusTellsOfEveryProcess) {
  router_.status.set_epoch(3);
  router_.status.mutable_router()->set_pid(11);
  router_.status.mutable_router()->set_live_requests(2);
  router_.status.mutable_router()->set_address("127.0.0.1:5");
  router_.status.mutable_router()->set_state(v1::ROUTER_STATE_SERVING);
  *router_.status.add_routers() = router_.status.router();
  v1::RouterStatus& other = *router_.status.add_routers();
  other.set_pid(14);
  other.set_address("127.0.0.1:6");
  other.set_metrics_address("127.0.0.1:8");
  other.set_state(v1::ROUTER_STATE_DEAD);
  v1::WorkerInfo& worker = *router_.status.add_workers();
  worker.set_id("w0");
  worker.set_pid(12);
  worker.set_address("127.0.0.1:7");
  worker.set_state(v1::WORKER_STATE_READY);
  worker.set_experts(64);
  worker.mutable_load()->set_running(3);
  worker.mutable_load()->set_waiting(4);
  worker.mutable_load()->set_kv_blocks_used(5);
  EXPECT_EQ(Call({"status", "--json"}), kDone);
  json document = Document();
  EXPECT_EQ(document["epoch"], 3);
  EXPECT_EQ(document["router"]["pid"], 11);
  EXPECT_EQ(document["router"]["live_requests"], 2);
  ASSERT_EQ(document["routers"].size(), 2U);
  EXPECT_EQ(document["routers"][0], document["router"]);
  EXPECT_EQ(document["routers"][0]["state"], "serving");
  EXPECT_EQ(document["routers"][1]["pid"], 14);
  EXPECT_EQ(document["routers"][1]["address"], "127.0.0.1:6");
  EXPECT_EQ(document["routers"][1]["metrics_address"], "127.0.0.1:8");
  EXPECT_EQ(document["routers"][1]["state"], "dead");
  EXPECT_TRUE(document["scheduler"].is_null());
  EXPECT_EQ(document["adapters"], json::array());
  ASSERT_EQ(document["workers"].size(), 1U);
  EXPECT_EQ(document["workers"][0]["id"], "w0");
  EXPECT_EQ(document["workers"][0]["pid"], 12);
  EXPECT_EQ(document["workers"][0]["address"], "127.0.0.1:7");
  EXPECT_EQ(document["workers"][0]["state"], "ready");
  EXPECT_EQ(document["workers"][0]["experts"], 64);
  EXPECT_EQ(document["workers"][0]["sequences"], 7);
  EXPECT_EQ(document["workers"][0]["kv_blocks_used"], 5);

  router_.status.mutable_scheduler()->set_pid(13);
  EXPECT_EQ(Call({"status", "--json"}), kDone);
  EXPECT_EQ(Document()["scheduler"]["pid"], 13);
  EXPECT_EQ(Call({"status"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("router     127.0.0.1:5  pid 11  serving, live requests 2\n"
                                    "router     127.0.0.1:6  pid 14  dead, live requests 0\n"));
  EXPECT_THAT(out_.str(), HasSubstr("worker     w0  127.0.0.1:7  pid 12  ready"));
}

TEST_F(Commands, StatusShowsNoLoadOfADeadWorker) {
  v1::WorkerInfo& worker = *router_.status.add_workers();
  worker.set_id("w0");
  worker.set_pid(12);
  worker.set_address("127.0.0.1:7");
  worker.set_state(v1::WORKER_STATE_DEAD);
  EXPECT_EQ(Call({"status"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("worker     w0  127.0.0.1:7  pid 12  dead\n"));
}

TEST_F(Commands, StatusOfASchedulerHasNoRouterOfItsOwn) {
  router_.status.mutable_scheduler()->set_pid(13);
  v1::RouterStatus& router = *router_.status.add_routers();
  router.set_pid(14);
  router.set_address("127.0.0.1:6");
  router.set_state(v1::ROUTER_STATE_SERVING);
  EXPECT_EQ(Call({"status", "--json"}), kDone);
  EXPECT_TRUE(Document()["router"].is_null());
  EXPECT_EQ(Document()["routers"].size(), 1U);
  EXPECT_EQ(Call({"status"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("epoch      0\nrouter     127.0.0.1:6  pid 14  serving"));
}

TEST_F(Commands, ModelsListsThem) {
  EXPECT_EQ(Call({"models", "--json"}), kDone);
  const json model = Document()["models"][0];
  EXPECT_EQ(model["name"], "fake");
  EXPECT_EQ(model["context_limit"], 64);
  EXPECT_TRUE(model["parent"].is_null());
  EXPECT_EQ(Call({"models"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("fake  bytes, context 64"));
  EXPECT_THAT(out_.str(), HasSubstr(", does not chat: no template"));
  EXPECT_EQ(model["chat"], false);
  EXPECT_EQ(model["chat_problem"], "no template");
}

}  // namespace
}  // namespace conclave::services::cli
