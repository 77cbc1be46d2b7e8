// Command lines: which are understood, and what is said of those that cannot be meant.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <string>

#include "tests/services/cli/commands_fixture.h"
#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/model/model.h"

namespace conclave::services::cli {
namespace {

using ::testing::HasSubstr;

TEST_F(Commands, CommandLinesThatCannotBeMeantAreNamed) {
  const struct {
    Arguments arguments;
    std::string error;
  } cases[] = {
      {{"frobnicate"}, "unknown command \"frobnicate\"; there are up, generate, chat, score"},
      {{"chat"}, "--server is missing"},
      {{"generate"}, "give one of --prompt, --prompt-file, --token-ids"},
      {{"generate", "--prompt", "x", "--token-ids", "1"}, "give one of"},
      {{"generate", "--prompt", "x", "--tempreature", "1"}, "unknown flag --tempreature"},
      {{"generate", "--prompt", "x", "--logprobs", "21"}, "out of range"},
      {{"generate", "--prompt-file", "/nonexistent"}, "cannot open \"/nonexistent\""},
      {{"generate", "--prompt", "x", "stray"}, "unexpected argument \"stray\""},
      {{"score", "--text", "x", "--stride", "3"}, "--stride goes with --window"},
      {{"score", "--text", "x", "--window", "3", "--stride", "4"}, "tokens would be left out"},
      {{"generate", "--token-ids", "1,,2"}, "\",2\", want a number"},
      {{"generate", "--token-ids", ",1"}, "\",1\", want a number"},
      {{"generate", "--token-ids", "1,2,"}, "nothing after the last comma"},
      {{"generate", "--token-ids", "1;2"}, "\";2\", want a number"},
      {{"score", "--text", "x", "--window", "-1"},
       "--window: \"-1\": out of range [2, 1000000000]"},
      {{"tokenize", "--token-ids", "1"}, "unknown flag --token-ids"},
      {{"tokenize"}, "give one of --text, --file"},
      {{"detokenize"}, "--token-ids is missing"},
      {{"esft"}, "usage: conclave esft select"},
      {{"trace"}, "usage: conclave trace record"},
      {{"trace", "record", "--text", "x"}, "--out is missing"},
      {{"trace", "record", "--out", "d", "--mix", "nofile"}, "want NAME=FILE"},
      {{"trace", "record", "--out", "d", "--text", "x", "--split", "word"}, "not \"word\""},
      {{"up"}, "--model is missing"},
      {{"up", "--model", "/nonexistent"}, "is not a directory"},
      {{"up", "--model", "/", "--placement", "/nonexistent"}, "/nonexistent"},
      {{"up", "--model", "/", "--routers", "0"}, "--routers: \"0\": out of range [1, 32]"},
      {{"up", "--model", "/", "--routers", "33"}, "--routers: \"33\": out of range [1, 32]"},
      {{"up", "--model", "/", "--threads", "5000"},
       "conclave up: --threads: \"5000\": out of range [0, 1024]"},
      {{"up", "--model", "/", "--returns", "SUMS"}, "owners cannot return \"SUMS\""},
      {{"up", "--model", "/", "--weights", "int8"},
       "--weights: weights cannot be held as \"int8\": want stored, mxint8 or mxfp4"},
      {{"up", "--model", "/", "--dense-weights", "int4"},
       "--dense-weights: weights cannot be held as \"int4\": want stored, mxint8 or mxfp4"},
      {{"up", "--model", "/", "--worker-flag=--weights=int8"},
       "--worker-flag: --weights: weights cannot be held as \"int8\""},
      {{"quantise", "/nonexistent"}, "name a checkpoint's directory and one to write"},
      {{"quantise", "a", "b", "--experts", "int8"},
       "--experts: there are mxint8 and mxfp4, not \"int8\""},
      {{"up", "--model", "/", "--numerics", "sse"}, "--numerics: unknown CPU level \"sse\""},
      {{"up", "--model", "/", "--max-running", "1000"}, "--max-running is 1000"},
      {{"up", "--model", "/", "--stall-ms", "0"}, "conclave up: --stall-ms: \"0\": out of range"},
      {{"up", "--model", "/", "--worker-flag=--exchange=pigeon"},
       "--worker-flag: --exchange: \"pigeon\" carries no exchange"},
      {{"up", "--model", "/", "--router-flag=--nonsense"},
       "--router-flag: unknown flag --nonsense"},
      {{"up", "--model", "/", "--scheduler-flag=--prepare-ms=0"}, "--scheduler-flag: --prepare-ms"},
      {{"up", "--model", "/", "--router-flag=--tls-ca=ca.pem"}, "start them by hand"},
      {{"up", "--model", "/", "--worker-flag=--help"}, "--help and --version start nothing"},
      {{"up", "--model", "/", "--grpc", "localhost"},
       "--grpc: \"localhost\" is not an address: want HOST:PORT"},
      {{"up", "--model", "/", "--grpc", "10.0.0.1:0"},
       "--grpc 10.0.0.1:0 can be reached from outside, and `conclave up` has no TLS"},
      {{"up", "--model", "/", "--metrics", "0.0.0.0:0"}, "--metrics 0.0.0.0:0 can be reached"},
      {{"up", "--model", "/", "--grpc", "0.0.0.0:0", "--insecure"},
       "--router-flag=--advertise=HOST:0"},
      {{"apply"}, "name a PLAN.json"},
      {{"apply", "/nonexistent"}, "/nonexistent"},
      {{"residency", "--layer", "-1"}, "out of range"},
      {{"up", "--model", "/", "--adapter", "law"},
       "--adapter: name an adapter and its directory, NAME=DIR, not \"law\""},
      {{"up", "--model", "/", "--adapter", "a=x", "--adapter", "a=y"},
       "--adapter: \"a\" is named twice"},
      {{"adapters"}, "say list, add NAME=DIR, or remove NAME"},
      {{"adapters", "drop", "law"}, "say list, add NAME=DIR, or remove NAME"},
      {{"adapters", "list", "law"}, "list takes no adapter"},
      {{"adapters", "add", "=dir"}, "NAME=DIR, not \"=dir\""},
      {{"adapters", "add", "law="}, "NAME=DIR, not \"law=\""},
      {{"adapters", "remove"}, "name an adapter"},
  };
  unsetenv("CONCLAVE_SERVER");
  for (const auto& [arguments, error] : cases) {
    SCOPED_TRACE(::testing::PrintToString(arguments));
    EXPECT_EQ(RunAlone(arguments), kUsage);
    EXPECT_EQ(out_.str(), "");
    EXPECT_THAT(err_.str(), HasSubstr(error));
  }
  EXPECT_EQ(RunAlone({"generate", "--prompt", "x"}), kUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--server is missing"));
  EXPECT_EQ(RunAlone({}), kUsage);
}

TEST_F(Commands, AQuantisedCheckpointIsWrittenOnceAndSaysHowFarItIs) {
  const worker::testing::TempDir dir;
  const std::string from = dir.File("from"), to = dir.File("to");
  std::filesystem::create_directory(from);
  worker::testing::WriteTinyOlmoe(from, 1,
                                  {.type = worker::DType::kBF16, .dim = 64, .expert_ffn_dim = 32});
  EXPECT_EQ(RunAlone({"quantise", from, to, "--experts", "mxfp4"}), kDone);
  EXPECT_EQ(out_.str(), "");
  EXPECT_THAT(err_.str(), HasSubstr("100 % of 0.0 GB\n"));
  const auto model = worker::Model::Load(to);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->spec.expert_type, worker::DType::kMxFp4);
  EXPECT_EQ(RunAlone({"quantise", from, to}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("ALREADY_EXISTS: " + to + " is there already"));
  EXPECT_EQ(RunAlone({"quantise", dir.File("none"), dir.File("out")}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("NOT_FOUND"));
}

TEST_F(Commands, APlanComesFromStdinToo) {
  const auto apply = [&](const std::string& plan) {
    std::istringstream in(plan);
    std::streambuf* const before = std::cin.rdbuf(in.rdbuf());
    const int code = Call({"apply", "-"});
    std::cin.rdbuf(before);
    std::cin.clear();
    return code;
  };
  EXPECT_EQ(apply(R"({"workers":1,"layers":1,"experts":1,"placement":[[[0]]],"seen":"in May"})"),
            kDone);
  EXPECT_EQ(out_.str(), "epoch 1\n");
  EXPECT_EQ(apply(R"({"workers":1,"layers":1,"experts":1,"placement":[[["a"]]]})"), kUsage);
  EXPECT_THAT(err_.str(), HasSubstr("stdin: layer 0, expert 0 names worker \"a\", the plan has"));
  EXPECT_EQ(RunAlone({"apply", "--help"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("other keys are remarks"));
}

TEST_F(Commands, TheServerComesFromTheEnvironmentToo) {
  setenv("CONCLAVE_SERVER", router_.address().c_str(), 1);
  EXPECT_EQ(RunAlone({"tokenize", "--text", "a"}), kDone);
  EXPECT_EQ(RunAlone({"tokenize", "--text", "a", "--server", "127.0.0.1:1"}), kFailed);
  unsetenv("CONCLAVE_SERVER");
}

TEST_F(Commands, TokenIdsAreSeparatedByACommaOrWhiteSpace) {
  for (const char* const ids : {"97,98,99", " 97 98\t99\n", "97, 98 ,99"}) {
    EXPECT_EQ(Call({"detokenize", "--token-ids", ids}), kDone);
    EXPECT_EQ(out_.str(), "abc") << ids;
  }
}

TEST_F(Commands, EveryCommandHasHelp) {
  for (const char* const command :
       {"up", "generate", "score", "tokenize", "detokenize", "models", "status"}) {
    EXPECT_EQ(RunAlone({command, "--help"}), kDone);
    EXPECT_THAT(out_.str(), HasSubstr(std::string("usage: conclave ") + command));
    EXPECT_EQ(err_.str(), "");
  }
  EXPECT_EQ(RunAlone({"generate", "--help"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("without it the model's generation_config.json\n"));
  EXPECT_THAT(out_.str(), HasSubstr("--insecure\n      connect without TLS"));
  EXPECT_EQ(RunAlone({"trace", "record", "--help"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("--mix NAME=FILE"));
  EXPECT_EQ(RunAlone({"--help"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("generate    continue a prompt"));
}

}  // namespace
}  // namespace conclave::services::cli
