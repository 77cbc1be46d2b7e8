#include "services/exchange/ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "scheduler/check.h"

namespace conclave::services {

// Each line has one writer, but `sleeping`, which the receiver sets and the sender clears.
struct RingHead {
  alignas(64) std::atomic<uint64_t> sent{0};  // slots ever sent
  alignas(64) std::atomic<uint32_t> sleeping{1};
};

struct RingSlot {
  alignas(64) worker::FrameHeaderBytes header;
  uint64_t offset;  // of the body in the arena
  uint64_t size;
  alignas(64) std::atomic<uint64_t> freed;  // 1 + the number of the frame that was last here
};

static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(std::is_trivially_destructible_v<RingHead>);
static_assert(std::is_trivially_destructible_v<RingSlot>);

namespace {

constexpr uint64_t kPage = 4096;
constexpr unsigned kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

constexpr uint64_t RoundUp(uint64_t bytes, uint64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

uint64_t BytesBeforeArena(const RingShape& shape) {
  return RoundUp(sizeof(RingHead) + shape.slots * sizeof(RingSlot), kPage);
}

absl::Status CheckShape(const RingShape& shape, uint64_t max_arena) {
  if (shape.slots < 2 || shape.slots > RingMemory::kMaxSlots || !std::has_single_bit(shape.slots)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "ring: %d slots, want a power of two up to %d", shape.slots, RingMemory::kMaxSlots));
  }
  if (shape.arena == 0 || shape.arena % kPage != 0 || shape.arena > max_arena) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "ring: an arena of %d bytes, want whole pages up to %d", shape.arena, max_arena));
  }
  return absl::OkStatus();
}

absl::Status CheckFile(int fd, uint64_t bytes) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || static_cast<uint64_t>(status.st_size) != bytes)
    return absl::InvalidArgumentError("ring: its memory has another size than it says");
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (static_cast<unsigned>(seals) & F_SEAL_SHRINK) == 0)
    return absl::InvalidArgumentError("ring: its memory could shrink");
  return absl::OkStatus();
}

absl::StatusOr<std::byte*> MapShared(int fd, uint64_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED)
    return absl::UnavailableError(absl::StrFormat("ring: mmap: %s", std::strerror(errno)));
  return static_cast<std::byte*>(data);
}

}  // namespace

uint64_t RingMemory::BytesOf(const RingShape& shape) {
  return BytesBeforeArena(shape) + shape.arena;
}

absl::StatusOr<std::unique_ptr<RingMemory>> RingMemory::Create(const RingShape& shape) {
  if (const absl::Status status = CheckShape(shape, UINT64_MAX); !status.ok()) return status;
  const uint64_t bytes = BytesOf(shape);
  const int fd = memfd_create("conclave-exchange", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0)
    return absl::UnavailableError(absl::StrFormat("ring: memfd: %s", std::strerror(errno)));
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0 || fcntl(fd, F_ADD_SEALS, kSeals) != 0) {
    const int error = errno;
    close(fd);
    return absl::UnavailableError(absl::StrFormat("ring: memfd: %s", std::strerror(error)));
  }
  absl::StatusOr<std::byte*> data = MapShared(fd, bytes);
  if (!data.ok()) {
    close(fd);
    return data.status();
  }
  new (*data) RingHead;
  return std::unique_ptr<RingMemory>(new RingMemory(shape, fd, *data));
}

absl::StatusOr<std::unique_ptr<RingMemory>> RingMemory::Map(int fd, const RingShape& shape,
                                                            uint64_t max_arena) {
  absl::Status status = CheckShape(shape, max_arena);
  if (status.ok()) status = CheckFile(fd, BytesOf(shape));
  absl::StatusOr<std::byte*> data = nullptr;
  if (status.ok()) {
    data = MapShared(fd, BytesOf(shape));
    status = data.status();
  }
  close(fd);
  if (!status.ok()) return status;
  return std::unique_ptr<RingMemory>(new RingMemory(shape, -1, *data));
}

RingMemory::~RingMemory() {
  munmap(data_, BytesOf(shape_));
  if (fd_ >= 0) close(fd_);
}

RingHead& RingMemory::head() const { return *std::launder(reinterpret_cast<RingHead*>(data_)); }

RingSlot& RingMemory::slot(uint64_t number) const {
  return reinterpret_cast<RingSlot*>(data_ + sizeof(RingHead))[number & (shape_.slots - 1)];
}

std::byte* RingMemory::arena() const { return data_ + BytesBeforeArena(shape_); }

RingSender::RingSender(std::unique_ptr<RingMemory> memory)
    : memory_(std::move(memory)),
      in_slots_(memory_->shape().slots),
      freed_(memory_->shape().slots),
      free_{{0, memory_->shape().arena}} {}

std::optional<worker::FrameBody> RingSender::Reserve(size_t size) {
  {
    const std::lock_guard lock(sending_);
    if (abandoned_) return std::nullopt;
    CollectFreed();
  }
  const uint64_t bytes = RoundUp(size, worker::kFrameAlignment);
  const std::lock_guard lock(arena_);
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    const auto [offset, room] = *it;
    if (room < bytes) continue;
    free_.erase(it);
    if (room > bytes) free_.emplace(offset + bytes, room - bytes);
    return worker::FrameBody(shared_from_this(), memory_->arena() + offset, size);
  }
  return std::nullopt;
}

void RingSender::Release(std::byte* data, size_t size) {
  auto offset = static_cast<uint64_t>(data - memory_->arena());
  uint64_t bytes = RoundUp(size, worker::kFrameAlignment);
  const std::lock_guard lock(arena_);
  const auto after = free_.lower_bound(offset);
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == offset) {
      offset = before->first;
      bytes += before->second;
      free_.erase(before);
    }
  }
  if (after != free_.end() && offset + bytes == after->first) {
    bytes += after->second;
    free_.erase(after);
  }
  free_[offset] = bytes;
}

RingSender::Sent RingSender::Send(const worker::FrameHeaderBytes& header, worker::FrameBody body) {
  const std::lock_guard lock(sending_);
  CollectFreed();
  if (abandoned_ || next_ - oldest_ == memory_->shape().slots) return Sent::kNoRoom;
  RingSlot& slot = memory_->slot(next_);
  slot.header = header;
  slot.size = body.bytes().size();
  slot.offset = 0;
  if (slot.size != 0) {
    CONCLAVE_CHECK(body.bytes().data() >= memory_->arena());
    slot.offset = static_cast<uint64_t>(body.bytes().data() - memory_->arena());
    CONCLAVE_CHECK(slot.offset + slot.size <= memory_->shape().arena);
  }
  const size_t index = next_ & (memory_->shape().slots - 1);
  in_slots_[index] = std::move(body);
  freed_[index] = false;
  // The receiver sets `sleeping` and looks at `sent` again; here it is the other way round.
  memory_->head().sent.store(++next_);
  return memory_->head().sleeping.load() != 0 && memory_->head().sleeping.exchange(0) != 0
             ? Sent::kWake
             : Sent::kSent;
}

void RingSender::Abandon() {
  const std::lock_guard lock(sending_);
  abandoned_ = true;
  in_slots_.clear();
}

void RingSender::CollectFreed() {
  const uint64_t slots = memory_->shape().slots;
  for (uint64_t number = oldest_; number != next_; ++number) {
    const size_t index = number & (slots - 1);
    if (!freed_[index] &&
        memory_->slot(number).freed.load(std::memory_order_acquire) == number + 1) {
      freed_[index] = true;
      in_slots_[index] = worker::FrameBody();
    }
  }
  while (oldest_ != next_ && freed_[oldest_ & (slots - 1)]) ++oldest_;
}

// Frees one slot of a ring that lives as long.
class RingReceiver::Lease final : public worker::FrameBody::Owner {
 public:
  Lease(std::shared_ptr<RingReceiver> ring, uint64_t number)
      : ring_(std::move(ring)), number_(number) {}
  void Release(std::byte*, size_t) override {
    ring_->memory_->slot(number_).freed.store(number_ + 1, std::memory_order_release);
  }

 private:
  const std::shared_ptr<RingReceiver> ring_;
  const uint64_t number_;
};

RingReceiver::Taken RingReceiver::Take() {
  Taken taken;
  const uint64_t waiting = memory_->head().sent.load() - next_;
  if (waiting == 0) return taken;
  taken.what = Taken::What::kNonsense;
  if (waiting > memory_->shape().slots) return taken;
  RingSlot& slot = memory_->slot(next_);
  const auto copy = [](const uint64_t& shared) {
    return *static_cast<const volatile uint64_t*>(&shared);
  };
  const uint64_t offset = copy(slot.offset), size = copy(slot.size);
  std::memcpy(taken.header.data(), slot.header.data(), taken.header.size());
  const uint64_t arena = memory_->shape().arena;
  if (offset % worker::kFrameAlignment != 0 || offset > arena || size > arena - offset)
    return taken;
  taken.what = Taken::What::kFrame;
  taken.body = worker::FrameBody(std::make_shared<Lease>(shared_from_this(), next_),
                                 memory_->arena() + offset, size);
  ++next_;
  return taken;
}

bool RingReceiver::Sleep() {
  memory_->head().sleeping.store(1);
  return memory_->head().sent.load() == next_;
}

void RingReceiver::WakeUp() { memory_->head().sleeping.store(0); }

}  // namespace conclave::services
