// What commands say of an adapter that was left to the router.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/services/cli/commands_fixture.h"

namespace conclave::services::cli {
namespace {

using conclave::testing::FakeRouter;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(Commands, TellsWhichAdapterWasChosen) {
  v1::AutoChoice choice;
  choice.set_best("law@aa11");
  choice.set_share(0.3);
  choice.set_margin(0.1);
  choice.set_least_margin(0.02);
  choice.set_tokens(9);
  choice.set_probe_us(1500);
  std::string adapter = "law@aa11";
  router_.generate = [&](grpc::ServerContext&, const v1::GenerateRequest& request,
                         FakeRouter::GenerateWriter& writer) {
    EXPECT_EQ(request.adapter(), "auto");
    v1::GenerateResponse all;
    all.set_text("text");
    all.set_finish_reason(v1::FINISH_REASON_STOP);
    all.set_adapter(adapter);
    *all.mutable_auto_choice() = choice;
    writer.Write(all);
    return grpc::Status::OK;
  };
  const Arguments generate = {"generate", "--prompt", "x", "--adapter", "auto"};
  EXPECT_EQ(Call(generate), kDone);
  EXPECT_EQ(out_.str(), "text\n");
  EXPECT_EQ(err_.str(),
            "conclave generate: adapter: law@aa11 answers: 30.0 % of the gate's weight, 10.0 "
            "ahead\n");
  EXPECT_EQ(Call({"generate", "--prompt", "x", "--adapter", "auto", "--json"}), kDone);
  EXPECT_EQ(Document()["adapter"], "law@aa11");
  EXPECT_EQ(Document()["auto"], json::parse(R"({"best": "law@aa11", "share": 0.3, "margin": 0.1,
      "least_margin": 0.02, "tokens": 9, "probe_ms": 1.5})"));
  adapter.clear();
  choice.set_margin(0.01);
  EXPECT_EQ(Call(generate), kDone);
  EXPECT_THAT(err_.str(), HasSubstr("adapter: the base model answers: the best is law@aa11 with "
                                    "30.0 % of the gate's weight, 1.0 ahead, and 2.0 are needed"));
  choice.clear_best();
  EXPECT_EQ(Call(generate), kDone);
  EXPECT_THAT(err_.str(), HasSubstr("the base model answers: there is no adapter to choose"));
}

TEST_F(Commands, ScoresAllWindowsThroughTheAdapterThatWasChosenForTheFirst) {
  std::vector<std::string> asked;
  std::string adapter = "law@aa11";
  router_.score = [&](grpc::ServerContext& context, const v1::ScoreRequest& request,
                      FakeRouter::ScoreWriter& writer) {
    asked.push_back(request.adapter());
    v1::ScoreResponse first;
    first.set_adapter(adapter);
    if (request.adapter() == "auto") first.mutable_auto_choice()->set_best("law@aa11");
    writer.Write(first);
    return FakeRouter::ScoreBytes(context, request, writer);
  };
  const Arguments score = {"score", "--text", "abcdefgh", "--window", "4", "--adapter", "auto"};
  EXPECT_EQ(Call(score), kDone) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("adapter        law@aa11 answers"));
  adapter.clear();
  EXPECT_EQ(Call(score), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("adapter        the base model answers"));
  EXPECT_THAT(asked, ElementsAre("auto", "law@aa11", "auto", "base"));
}

TEST_F(Commands, TracesNoAdapterThatIsLeftToTheRouter) {
  EXPECT_EQ(Call({"trace", "record", "--out", "x", "--text", "y", "--adapter", "auto"}), kUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--adapter auto: a mix is of one adapter"));
}

}  // namespace
}  // namespace conclave::services::cli
