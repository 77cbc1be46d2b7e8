// Experts packed when they are read: what an engine then gives is, bit for bit, what it gives of a
// checkpoint that has the packed numbers in BF16.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "tests/worker/testing/collector.h"
#include "tests/worker/testing/packed_checkpoint.h"
#include "tests/worker/testing/tiny_adapter.h"
#include "tests/worker/testing/without_experts.h"
#include "worker/device/packed.h"
#include "worker/experts/expert_store.h"
#include "worker/model/adapter_files.h"
#include "worker/model/model.h"
#include "worker/model/widen.h"

namespace conclave::worker {
namespace {

using testing::Collector;
using testing::Edit;
using ::testing::HasSubstr;
using testing::PackableCheckpoint;

constexpr Weight FfnWeights::*kMembers[] = {&FfnWeights::gate,    &FfnWeights::up,
                                            &FfnWeights::down,    &FfnWeights::gate_bias,
                                            &FfnWeights::up_bias, &FfnWeights::down_bias};

absl::StatusOr<std::shared_ptr<const Model>> TryLoad(const PackableCheckpoint& checkpoint,
                                                     const ModelOptions& options,
                                                     const Edit& edit = nullptr) {
  testing::TempDir directory;
  checkpoint.write(directory.path(), edit);
  return Model::Load(directory.path(), options);
}

std::shared_ptr<const Model> Load(const PackableCheckpoint& checkpoint, const ModelOptions& options,
                                  const Edit& edit = nullptr) {
  auto model = TryLoad(checkpoint, options, edit);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

std::unique_ptr<Engine> MakeEngine(std::shared_ptr<const Model> model, const std::string& level) {
  const Engine::Options options = {.planner = {.prefill_chunk = 40}, .start_thread = false};
  CpuDeviceOptions device_options = CpuDeviceOptionsFor(model->spec, options);
  device_options.level = level;
  device_options.threads = 2;
  auto engine = Engine::Create(options, std::move(model), *MakeCpuDevice(device_options));
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

// Prompts of one token to chunks and more, greedy and sampled, with all numbers there are to see.
std::map<uint64_t, Collector::Answer> AnswersOf(std::shared_ptr<const Model> model,
                                                const std::string& level) {
  const auto vocab = static_cast<uint64_t>(model->spec.vocab);
  const std::unique_ptr<Engine> engine = MakeEngine(std::move(model), level);
  const auto link = std::make_shared<Collector>();
  for (uint64_t i = 0; i < 6; ++i) {
    SequenceRequest request = {.id = i};
    for (uint64_t t = 0; t <= i * 11; ++t)
      request.prompt.push_back(static_cast<scheduler::TokenId>((t * 7919 + i * 31) % vocab));
    request.temperature = i % 2 == 1 ? 0.9f : 0.0f;
    request.seed = i;
    request.max_tokens = 6;
    request.logprobs = 3;
    request.prompt_logprobs = true;
    request.routing = true;
    const absl::Status status = engine->Submit(link, std::move(request));
    EXPECT_TRUE(status.ok()) << status;
  }
  while (engine->Step(scheduler::Micros(0))) {
  }
  for (const auto& [id, answer] : link->answers)
    EXPECT_TRUE(answer.end.has_value() && answer.end->status.ok()) << id;
  return link->answers;
}

struct Case {
  const PackableCheckpoint* checkpoint;
  DType form;
};
// Every matrix that may be.
ModelOptions AllAs(DType form) { return {.experts_as = form, .dense_as = form}; }
std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const PackableCheckpoint& checkpoint : testing::PackableCheckpoints()) {
    for (const DType form : {DType::kMxInt8, DType::kMxFp4}) cases.push_back({&checkpoint, form});
  }
  return cases;
}
std::string NameOf(const ::testing::TestParamInfo<Case>& one) {
  return std::string(one.param.checkpoint->name) + "_" + NameOfPacked(one.param.form);
}

class PackedWeights : public ::testing::TestWithParam<Case> {
 protected:
  const PackableCheckpoint& checkpoint_ = *GetParam().checkpoint;
  const DType form_ = GetParam().form;
};

TEST_P(PackedWeights, AnswerAsACheckpointOfTheirNumbersDoes) {
  const auto packed = Load(checkpoint_, {.experts_as = form_});
  const auto plain = Load(checkpoint_, {}, testing::Unpacked(form_));
  EXPECT_EQ(packed->spec.expert_type, form_);
  EXPECT_EQ(plain->spec.expert_type, DType::kBF16);
  for (const std::string& level : CpuLevels()) {
    const auto expected = AnswersOf(plain, level);
    ASSERT_EQ(expected.size(), 6u);
    EXPECT_TRUE(AnswersOf(packed, level) == expected) << level;
  }
}

TEST_P(PackedWeights, AnswerAsACheckpointOfTheirNumbersDoesWhereAllAre) {
  const auto packed = Load(checkpoint_, AllAs(form_));
  const auto plain = Load(checkpoint_, {}, testing::Unpacked(form_, testing::CanAllBePacked));
  EXPECT_EQ(packed->spec.dense_type, form_);
  EXPECT_EQ(packed->layers.front().attention.o.type, form_);
  EXPECT_EQ(packed->embedding.type, DType::kBF16);
  for (const std::string& level : CpuLevels()) {
    const auto expected = AnswersOf(plain, level);
    ASSERT_EQ(expected.size(), 6u);
    EXPECT_TRUE(AnswersOf(packed, level) == expected) << level;
  }
}

TEST_P(PackedWeights, AreMatricesOfExpertsAndNothingElse) {
  const auto packed = Load(checkpoint_, {.experts_as = form_});
  const auto plain = Load(checkpoint_, {}, testing::Unpacked(form_));
  for (size_t l = 0; l < packed->layers.size(); ++l) {
    const LayerWeights &ours = packed->layers[l], &theirs = plain->layers[l];
    EXPECT_EQ(ours.attention.o.type, DType::kBF16);
    if (ours.dense.gate) {
      EXPECT_EQ(ours.dense.gate.type, DType::kBF16);
    }
    std::vector<std::pair<const FfnWeights*, const FfnWeights*>> pairs;
    if (ours.shared.gate) pairs.emplace_back(&ours.shared, &theirs.shared);
    for (size_t slot = 0; slot < ours.experts.size(); ++slot)
      pairs.emplace_back(&ours.experts[slot], &theirs.experts[slot]);
    for (const auto& [a, b] : pairs) {
      for (const auto member : kMembers) {
        const Weight &mine = a->*member, &other = b->*member;
        ASSERT_EQ(static_cast<bool>(mine), static_cast<bool>(other));
        if (!mine) continue;
        EXPECT_EQ(IsPacked(mine.type), mine.rows > 1) << "not a bias";
        EXPECT_EQ(Widen(mine), Widen(other));
      }
    }
  }
}

TEST_P(PackedWeights, TravelToAWorkerWithoutThemAsTheyAreHeld) {
  const auto whole = Load(checkpoint_, {.experts_as = form_});
  const auto lacking =
      Load(checkpoint_,
           {.experts_as = form_,
            .ask_layers = [&](const std::string&) { return whole->checkpoint.layers; }},
           testing::WithoutExperts());
  ExpertStore owner({}, *whole);
  class Source final : public ExpertSource {
   public:
    explicit Source(ExpertStore& owner) : owner_(owner) {}
    absl::StatusOr<SealedMemory> Fetch(const Wanted& wanted) override {
      const auto loan = owner_.Lend(wanted.expert);
      EXPECT_EQ((*loan)->bytes().size(), wanted.bytes);
      std::string bytes(wanted.bytes, '?');
      (*loan)->bytes().Read(0, bytes.size(), bytes.data());
      SealedMemory memory = *SealedMemory::Create("test", wanted.bytes);
      EXPECT_TRUE(memory.Append(bytes).ok() && memory.Seal().ok());
      EXPECT_EQ(*memory.Sha256(), (*loan)->Sha256());
      return memory;
    }

   private:
    ExpertStore& owner_;
  } source(owner);
  ExpertStore store({.source = &source}, *lacking);
  std::vector<scheduler::ExpertId> all;
  for (size_t id = 0; id < whole->Experts().size(); ++id)
    all.push_back(static_cast<scheduler::ExpertId>(id));
  const absl::Status held = store.Hold(all);
  ASSERT_TRUE(held.ok()) << held;
  for (const scheduler::ExpertId id : all) {
    for (const auto member : kMembers) {
      const Weight &ours = lacking->Experts()[id]->*member, &theirs = whole->Experts()[id]->*member;
      ASSERT_EQ(static_cast<bool>(ours), static_cast<bool>(theirs));
      if (ours) {
        EXPECT_EQ(Widen(ours), Widen(theirs));
      }
    }
  }
  // What it takes is what is packed: with a scale of a byte for 32 numbers, and lines filled up.
  int64_t numbers = 0, biases = 0;
  for (const auto member : kMembers) {
    const Weight& weight = whole->Experts()[0]->*member;
    (IsPacked(weight.type) ? numbers : biases) += weight.rows * weight.cols;
  }
  const auto least = static_cast<uint64_t>(numbers * BitsOf(form_) / 8 + numbers / 32 + biases * 4);
  EXPECT_GE(store.stats().fetched_bytes, all.size() * least);
  EXPECT_LT(store.stats().fetched_bytes, all.size() * (least + 12 * 64));
}

TEST_P(PackedWeights, OfAnAdapterAreThoseOfTheBaseWithItsExperts) {
  testing::TempDir base, adapter, merged;
  checkpoint_.write(base.path(), nullptr);
  const bool shared = std::string(checkpoint_.name).starts_with("deepseek");
  const testing::TinyAdapter made =
      testing::MakeTinyAdapter(base.path(), 3, {.shared = shared, .type = "mixed"});
  testing::WriteAdapter(made, adapter.path());
  testing::WriteMerged(base.path(), made, merged.path());
  const ModelOptions options = {.experts_as = form_};
  const auto base_model = Model::Load(base.path(), options);
  const auto merged_model = Model::Load(merged.path(), options);
  ASSERT_TRUE(base_model.ok() && merged_model.ok()) << merged_model.status();
  const auto files = AdapterFiles::Open(adapter.path(), **base_model);
  ASSERT_TRUE(files.ok()) << files.status();
  for (size_t i = 0; i < (*files)->experts().size(); ++i) {
    const AdapterFiles::Expert& expert = (*files)->experts()[i];
    const LayerWeights& layer = (*merged_model)->layers[static_cast<size_t>(expert.layer)];
    const ExpertBytes expected(
        (*files)->layout(i),
        expert.shared ? layer.shared : layer.experts[static_cast<size_t>(expert.slot)]);
    std::vector<std::byte> bytes((*files)->layout(i).bytes());
    const absl::Status read = (*files)->Read(i, bytes);
    ASSERT_TRUE(read.ok()) << read;
    EXPECT_EQ(expected.Sha256(), expert.sha256);
    EXPECT_EQ(expected.size(), bytes.size());
  }
}

INSTANTIATE_TEST_SUITE_P(All, PackedWeights, ::testing::ValuesIn(AllCases()), NameOf);

const PackableCheckpoint& Olmoe() { return testing::PackableCheckpoints().front(); }
constexpr char kExpert[] = "model.layers.1.mlp.experts.5.up_proj.weight";

std::string Refusal(const Edit& edit, DType form = DType::kMxInt8) {
  const auto model = TryLoad(Olmoe(), {.experts_as = form}, edit);
  if (model.status().code() == absl::StatusCode::kInvalidArgument)
    return std::string(model.status().message());
  return "not INVALID_ARGUMENT: " + model.status().ToString();
}

TEST(PackedWeightsTest, ChangeWhatResultsAreSaidToDependOn) {
  const std::string stored = MakeEngine(Load(Olmoe(), {}), "portable")->numerics();
  EXPECT_EQ(stored, "cpu-portable-1-bf16");
  EXPECT_EQ(MakeEngine(Load(Olmoe(), {.experts_as = DType::kMxInt8}), "portable")->numerics(),
            stored + "-mxint8");
  EXPECT_EQ(MakeEngine(Load(Olmoe(), {.experts_as = DType::kMxFp4}), "portable")->numerics(),
            stored + "-mxfp4");
  EXPECT_EQ(MakeEngine(Load(Olmoe(), {.dense_as = DType::kMxInt8}), "portable")->numerics(),
            stored + "-dense-mxint8");
  EXPECT_EQ(MakeEngine(Load(Olmoe(), AllAs(DType::kMxInt8)), "portable")->numerics(),
            stored + "-mxint8-dense-mxint8");
}

TEST(PackedWeightsTest, OfWhatIsNoExpertsAreThoseWhoseSizesAllowIt) {
  const auto odd = [](const std::string& directory, const Edit&) {
    testing::WriteTinyOlmoe(directory, 1,
                            {.type = DType::kBF16, .dim = 64, .expert_ffn_dim = 32, .kv_heads = 1});
  };
  const auto model = Load({"odd", odd}, {.dense_as = DType::kMxInt8});
  EXPECT_EQ(model->head.type, DType::kBF16) << "260 rows";
  for (const LayerWeights& layer : model->layers) {
    EXPECT_EQ(layer.attention.q.type, DType::kMxInt8);
    EXPECT_EQ(layer.gate.type, DType::kBF16) << "the gate chooses as ever";
    EXPECT_EQ(layer.experts.front().up.type, DType::kBF16);
  }
}

TEST(PackedWeightsTest, OfATiedHeadLeaveTheEmbedding) {
  const auto tied = [](const std::string& directory, const Edit&) {
    testing::WriteTinyOlmoe(
        directory, 1,
        {.type = DType::kBF16,
         .vocab = 272,
         .dim = 64,
         .expert_ffn_dim = 32,
         .edit = [](auto& config, auto& tensors) {
           config["tie_word_embeddings"] = true;
           std::erase_if(tensors, [](const auto& one) { return one.name == "lm_head.weight"; });
         }});
  };
  const auto model = Load({"tied", tied}, {.dense_as = DType::kMxFp4});
  EXPECT_EQ(model->head.type, DType::kMxFp4);
  EXPECT_EQ(model->embedding.type, DType::kBF16);
}

TEST(PackedWeightsTest, CountAsWhatTheyTakeInMemory) {
  const auto packed = Load(Olmoe(), {.experts_as = DType::kMxFp4});
  const int64_t experts = std::ssize(packed->Experts());
  const int64_t numbers = 3 * 96 * 32;
  EXPECT_EQ(packed->converted_bytes(), experts * (numbers / 2 + 3 * 128));
  const int64_t enough = packed->converted_bytes();
  EXPECT_TRUE(TryLoad(Olmoe(), {.converted_bytes = enough, .experts_as = DType::kMxFp4}).ok());
  const absl::Status refused =
      TryLoad(Olmoe(), {.converted_bytes = enough - 1, .experts_as = DType::kMxFp4}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("raise converted-bytes"));
}

TEST(PackedWeightsTest, AreGivenBackAndMadeAnew) {
  const auto packed = Load(Olmoe(), {.experts_as = DType::kMxInt8, .hold_experts = false});
  const std::vector<scheduler::ExpertId> some = {3, 4};
  ASSERT_TRUE(packed->HoldExperts(some).ok());
  const std::vector<float> numbers = Widen(packed->Experts()[3]->down);
  EXPECT_TRUE(std::any_of(numbers.begin(), numbers.end(), [](float n) { return n != 0.0f; }));
  packed->DropExperts(some);
  ASSERT_TRUE(packed->HoldExperts(some).ok());
  EXPECT_EQ(Widen(packed->Experts()[3]->down), numbers);
}

TEST(PackedWeightsTest, AreOfBf16) {
  const auto f32 = [](const std::string& directory, const Edit&) {
    testing::WriteTinyOlmoe(directory, 1, {.dim = 64, .expert_ffn_dim = 32});
  };
  const auto model = TryLoad({"f32", f32}, {.experts_as = DType::kMxInt8});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(model.status().message()),
              HasSubstr("is F32, and only BF16 can be packed as MXINT8"));
  EXPECT_THAT(std::string(TryLoad({"f32", f32}, {.dense_as = DType::kMxFp4}).status().message()),
              HasSubstr("is F32, and only BF16 can be packed as MXFP4"));
}

TEST(PackedWeightsTest, AreOfWholeBandsAndGroups) {
  const auto narrow = [](const std::string& directory, const Edit&) {
    testing::WriteTinyOlmoe(directory, 1, {.type = DType::kBF16, .dim = 64, .expert_ffn_dim = 33});
  };
  const auto model = TryLoad({"narrow", narrow}, {.experts_as = DType::kMxFp4});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(model.status().message()),
              HasSubstr("experts.0.gate_proj.weight\" has matrices of 33 x 64, and MXFP4 takes "
                        "multiples of 16 x 32, up to 32768 wide"));
}

TEST(PackedWeightsTest, AreFiniteAndBelowTheLimit) {
  const auto with = [](float number) {
    return testing::Change(kExpert, [=](testing::TinyTensor& tensor) {
      tensor.bytes.replace(2 * 77, 2, testing::Encode(DType::kBF16, {number}));
    });
  };
  for (const DType form : {DType::kMxInt8, DType::kMxFp4}) {
    const std::string name = std::string("tensor \"") + kExpert + "\" has ";
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      EXPECT_THAT(Refusal(with(bad), form),
                  HasSubstr(name + "a value that is not finite, number 77"));
    }
    EXPECT_THAT(Refusal(with(-0x1p104f), form), HasSubstr(name + "-2.02824e+31 as number 77"));
    EXPECT_TRUE(TryLoad(Olmoe(), {.experts_as = form}, with(0x1p103f)).ok());
  }
}

}  // namespace
}  // namespace conclave::worker
