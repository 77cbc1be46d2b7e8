#include "worker/experts/adapter_store.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"
#include "worker/device/device.h"
#include "worker/experts/sealed_memory.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

using absl::StrCat;
using scheduler::ExpertId;
using scheduler::PlacedAdapter;
using scheduler::Placement;

constexpr uint64_t kAlignment = 64;  // of an expert in an arena, as of a weight in an expert
constexpr int32_t kProbeRows = 4;    // of the self-test
constexpr uint64_t kProbeSeed = 0x5eed;

uint64_t Aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Indexes into `replaced` of the experts that `self` computes by the placement.
std::vector<size_t> ComputedBy(const Placement& placement, const PlacedAdapter& adapter,
                               int32_t self) {
  std::vector<size_t> indexes;
  for (size_t i = 0; i < adapter.replaced.size(); ++i) {
    const ExpertId id = adapter.first + static_cast<ExpertId>(i);
    if (IsShared(placement, adapter, id) || Owns(placement, self, id)) indexes.push_back(i);
  }
  return indexes;
}

int32_t IndexIn(const Placement& placement, const std::string& worker) {
  return scheduler::IndexOf(placement, worker).value_or(-1);
}

std::vector<float> Compute(Device& device, const FfnWeights& weights, ConstRows x) {
  std::vector<int32_t> rows(static_cast<size_t>(x.rows));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
  std::vector<float> results(rows.size() * static_cast<size_t>(x.cols));
  const ExpertWork work = {&weights, rows, rows};
  device.Experts(x, {&work, 1}, {results.data(), x.rows, x.cols, x.cols});
  return results;
}

}  // namespace

class AdapterStore::Arena {
 public:
  static absl::StatusOr<std::shared_ptr<const Arena>> Map(const SealedMemory& memory) {
    void* const place =
        mmap(nullptr, memory.size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED)
      return absl::ResourceExhaustedError(StrCat("no address space for ", memory.size(), " bytes"));
    std::shared_ptr<const Arena> arena(new Arena(place, memory.size()));
    CONCLAVE_RETURN_IF_ERROR(memory.MapAt(place));
    return arena;
  }
  ~Arena() { munmap(place_, size_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  const char* data() const { return static_cast<const char*>(place_); }

 private:
  Arena(void* place, uint64_t size) : place_(place), size_(size) {}
  void* const place_;
  const uint64_t size_;
};

AdapterStore::AdapterStore(const Options& options, const Model& model, ExpertStore& base,
                           Pace::Steps steps)
    : options_(options),
      model_(model),
      base_(base),
      steps_(std::move(steps)),
      base_experts_(static_cast<ExpertId>(model.Experts().size())) {}

AdapterStore::~AdapterStore() = default;

ExpertId AdapterStore::ReplacedBy(const AdapterFiles::Expert& expert) const {
  if (expert.shared) return base_experts_ + static_cast<ExpertId>(expert.moe_layer);
  return static_cast<ExpertId>(expert.moe_layer * model_.spec.gate.slots + expert.slot);
}

std::string AdapterStore::NameOf(const AdapterFiles::Expert& expert) const {
  if (expert.shared) return StrCat("the shared expert of layer ", expert.layer);
  return base_.NameOf(ReplacedBy(expert));
}

absl::StatusOr<AdapterCheck> AdapterStore::Check(const std::string& source) {
  Pace pace(options_.pace, steps_);
  CONCLAVE_ASSIGN_OR_RETURN(
      Files files, AdapterFiles::Open(source, model_, options_.files, [&] { pace.Rest(); }));
  CpuDeviceOptions device_options{
      .threads = 1, .activation_type = model_.spec.activation_type(), .max_rows = kProbeRows};
  device_options.max_columns =
      std::max({model_.spec.dim, model_.spec.expert_ffn_dim, model_.spec.shared_ffn_dim});
  CONCLAVE_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, MakeCpuDevice(device_options));
  AdapterCheck check{.digest = files->version(), .bytes = files->bytes()};
  for (size_t i = 0; i < files->experts().size(); ++i) {
    CONCLAVE_RETURN_IF_ERROR(Differs(*files, i, *device));
    pace.Rest();
    check.replaced.push_back(ReplacedBy(files->experts()[i]));
    if (files->experts()[i].shared) check.shared_bytes += files->layout(i).bytes();
  }
  std::sort(check.replaced.begin(), check.replaced.end());
  const std::lock_guard lock(mutex_);
  Spare(std::move(files));
  return check;
}

void AdapterStore::Spare(Files files) {
  std::erase_if(spare_, [&](const Files& one) { return one->version() == files->version(); });
  spare_.push_back(std::move(files));
  if (spare_.size() > options_.spare) spare_.pop_front();
}

absl::Status AdapterStore::Differs(const AdapterFiles& files, size_t index, Device& device) const {
  const AdapterFiles::Expert& expert = files.experts()[index];
  const ExpertLayout& layout = files.layout(index);
  const FfnWeights* replaced = &model_.layers[static_cast<size_t>(expert.layer)].shared;
  std::unique_ptr<ExpertStore::Loan> loan;
  if (expert.shared) {
    if (ExpertBytes(layout, *replaced).Sha256() == expert.sha256) return absl::OkStatus();
  } else {
    absl::StatusOr<std::unique_ptr<ExpertStore::Loan>> lent = base_.Lend(ReplacedBy(expert));
    if (absl::IsNotFound(lent.status())) return absl::OkStatus();  // others have it, and look
    CONCLAVE_RETURN_IF_ERROR(lent.status());
    loan = *std::move(lent);
    if (loan->Sha256() == expert.sha256) return absl::OkStatus();
    replaced = &loan->weights();
  }
  std::vector<std::byte> bytes(layout.bytes());
  CONCLAVE_RETURN_IF_ERROR(files.Read(index, bytes));
  std::mt19937_64 random(kProbeSeed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(static_cast<size_t>(kProbeRows * model_.spec.dim));
  for (float& value : rows) value = normal(random);
  const ConstRows x = {rows.data(), kProbeRows, model_.spec.dim, model_.spec.dim};
  const FfnWeights ours = layout.At(reinterpret_cast<const char*>(bytes.data()));
  if (Compute(device, ours, x) != Compute(device, *replaced, x)) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(
      NameOf(expert), ": the adapter's numbers differ from the base's and compute the same"));
}

absl::StatusOr<AdapterStore::Files> AdapterStore::Open(const PlacedAdapter& adapter, Pace& pace) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto open = open_.find(adapter.digest); open != open_.end()) return open->second;
    const auto spare = std::find_if(spare_.begin(), spare_.end(), [&](const Files& files) {
      return files->version() == adapter.digest;
    });
    if (spare != spare_.end()) return *spare;
  }
  return OpenAnew(adapter, pace);
}

absl::StatusOr<AdapterStore::Files> AdapterStore::OpenAnew(const PlacedAdapter& adapter,
                                                           Pace& pace) {
  CONCLAVE_ASSIGN_OR_RETURN(Files files, AdapterFiles::Open(adapter.source, model_, options_.files,
                                                            [&] { pace.Rest(); }));
  if (files->version() == adapter.digest) return files;
  return absl::FailedPreconditionError(StrCat(adapter.source, ": has become version ",
                                              files->version(), ", wanted is ", adapter.digest));
}

absl::Status AdapterStore::Judge(const AdapterFiles& files, const PlacedAdapter& adapter) const {
  std::vector<ExpertId> replaced;
  for (const AdapterFiles::Expert& expert : files.experts()) replaced.push_back(ReplacedBy(expert));
  std::sort(replaced.begin(), replaced.end());
  if (replaced == adapter.replaced) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("placement: adapter ", adapter.digest, " replaces other experts here"));
}

absl::Status AdapterStore::Hold(const Placement& placement, const std::string& worker) {
  return HoldBut(placement, worker, [](const std::string&) { return false; }).status();
}

absl::StatusOr<AdapterStore::Lacks> AdapterStore::HoldBut(const Placement& placement,
                                                          const std::string& worker,
                                                          const MayLack& may_lack) {
  CONCLAVE_RETURN_IF_ERROR(CheckIds(placement));
  std::map<ExpertId, Held> held;
  std::map<std::string, Files> open;
  Lacks lacks;
  Pace pace(options_.pace, steps_);
  for (const PlacedAdapter& adapter : placement.adapters) {
    const absl::Status status =
        HoldVersion(placement, adapter, IndexIn(placement, worker), pace, held, open);
    if (status.ok()) continue;
    if (!may_lack(adapter.digest)) return status;
    // What it needs not read it does not miss.
    if (!Holds(placement, adapter.digest, worker))
      lacks[adapter.digest] = std::string(status.message());
  }
  const std::lock_guard lock(mutex_);
  for (const auto& [digest, files] : open) open_[digest] = files;
  held_.merge(held);
  std::erase_if(spare_, [&](const Files& files) { return open_.contains(files->version()); });
  return lacks;
}

bool AdapterStore::Holds(const Placement& placement, const std::string& digest,
                         const std::string& worker) const {
  const PlacedAdapter* const adapter = FindAdapter(placement, digest);
  if (adapter == nullptr) return true;
  const std::vector<size_t> computed = ComputedBy(placement, *adapter, IndexIn(placement, worker));
  return std::all_of(computed.begin(), computed.end(), [&](size_t i) {
    return Find(adapter->first + static_cast<ExpertId>(i)) != nullptr;
  });
}

absl::Status AdapterStore::CheckIds(const Placement& placement) const {
  const std::lock_guard lock(mutex_);
  for (const PlacedAdapter& adapter : placement.adapters) {
    const auto end = adapter.first + static_cast<ExpertId>(adapter.replaced.size());
    for (auto here = held_.lower_bound(adapter.first); here != held_.end() && here->first < end;
         ++here) {
      if (here->second.digest == adapter.digest) continue;
      return absl::FailedPreconditionError(StrCat("expert ", here->first, " of adapter ",
                                                  adapter.digest, " is still adapter ",
                                                  here->second.digest, "'s here"));
    }
  }
  return absl::OkStatus();
}

absl::Status AdapterStore::HoldVersion(const Placement& placement, const PlacedAdapter& adapter,
                                       int32_t self, Pace& pace, std::map<ExpertId, Held>& held,
                                       std::map<std::string, Files>& open) {
  CONCLAVE_ASSIGN_OR_RETURN(Files files, Open(adapter, pace));
  CONCLAVE_RETURN_IF_ERROR(Judge(*files, adapter));
  std::map<ExpertId, size_t> missing;  // id to index in files, whichever files of this version
  uint64_t bytes = 0;
  bool damaged = false;
  {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < files->experts().size(); ++i) {
      const auto replaced = std::lower_bound(adapter.replaced.begin(), adapter.replaced.end(),
                                             ReplacedBy(files->experts()[i]));
      missing[adapter.first + static_cast<ExpertId>(replaced - adapter.replaced.begin())] = i;
    }
    std::set<ExpertId> wanted;
    for (const size_t i : ComputedBy(placement, adapter, self))
      wanted.insert(adapter.first + static_cast<ExpertId>(i));
    for (auto at = missing.begin(); at != missing.end();) {
      const bool reads = wanted.contains(at->first) && !held_.contains(at->first);
      at = reads ? std::next(at) : missing.erase(at);
    }
    damaged = damaged_.contains(adapter.digest);
  }
  if (missing.empty()) {
    open[adapter.digest] = files;
    return absl::OkStatus();
  }
  // It may have been mended since.
  if (damaged) {
    CONCLAVE_ASSIGN_OR_RETURN(files, OpenAnew(adapter, pace));
  }
  for (const auto& [id, index] : missing) bytes += Aligned(files->layout(index).bytes());
  CONCLAVE_ASSIGN_OR_RETURN(
      SealedMemory memory,
      SealedMemory::Create(StrCat("conclave-adapter-", adapter.digest.substr(0, 16)), bytes));
  std::vector<std::byte> buffer;
  for (const auto& [id, index] : missing) {
    buffer.assign(Aligned(files->layout(index).bytes()), std::byte{});
    if (const absl::Status read =
            files->Read(index, std::span(buffer).first(files->layout(index).bytes()));
        !read.ok()) {
      // Next time the directory is asked anew.
      const std::lock_guard lock(mutex_);
      std::erase_if(spare_, [&](const Files& one) { return one == files; });
      damaged_.insert(adapter.digest);
      return read;
    }
    CONCLAVE_RETURN_IF_ERROR(
        memory.Append({reinterpret_cast<const char*>(buffer.data()), buffer.size()}));
    pace.Rest();
  }
  CONCLAVE_RETURN_IF_ERROR(memory.Seal());
  CONCLAVE_ASSIGN_OR_RETURN(const std::shared_ptr<const Arena> arena, Arena::Map(memory));
  uint64_t at = 0;
  for (const auto& [id, index] : missing) {
    const ExpertLayout& layout = files->layout(index);
    held[id] = {.digest = adapter.digest,
                .arena = arena,
                .bytes = layout.bytes(),
                .weights = layout.At(arena->data() + at)};
    at += Aligned(layout.bytes());
  }
  open[adapter.digest] = files;
  const std::lock_guard lock(mutex_);
  damaged_.erase(adapter.digest);
  return absl::OkStatus();
}

AdapterStore::Dropped AdapterStore::Keep(const Placements& placements, const std::string& worker,
                                         const std::function<void(ExpertId)>& gone) {
  std::set<std::string> versions;
  std::set<ExpertId> needed;
  for (const auto& placement : placements) {
    const int32_t self = IndexIn(*placement, worker);
    for (const PlacedAdapter& adapter : placement->adapters) {
      versions.insert(adapter.digest);
      for (const size_t i : ComputedBy(*placement, adapter, self))
        needed.insert(adapter.first + static_cast<ExpertId>(i));
    }
  }
  const std::lock_guard lock(mutex_);
  std::erase_if(open_, [&](const auto& open) {
    if (versions.contains(open.first)) return false;
    if (damaged_.erase(open.first) == 0) Spare(open.second);
    return true;
  });
  Dropped dropped;
  std::erase_if(held_, [&](const auto& held) {
    if (needed.contains(held.first)) return false;
    gone(held.first);
    freed_bytes_ += held.second.bytes;
    dropped.push_back(held.second.arena);
    return true;
  });
  return dropped;
}

const FfnWeights* AdapterStore::Find(ExpertId expert) const {
  const std::lock_guard lock(mutex_);
  const auto held = held_.find(expert);
  return held == held_.end() ? nullptr : &held->second.weights;
}

std::map<ExpertId, const FfnWeights*> AdapterStore::All() const {
  const std::lock_guard lock(mutex_);
  std::map<ExpertId, const FfnWeights*> all;
  for (const auto& [id, held] : held_) all[id] = &held.weights;
  return all;
}

AdapterStore::Stats AdapterStore::stats() const {
  const std::lock_guard lock(mutex_);
  Stats stats{.versions = open_.size(), .experts = held_.size(), .freed_bytes = freed_bytes_};
  for (const auto& [id, held] : held_) stats.bytes += held.bytes;
  return stats;
}

}  // namespace conclave::worker
