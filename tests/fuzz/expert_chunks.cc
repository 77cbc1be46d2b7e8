// Whatever another worker sends for an expert: an error, or memory of the expert's size that holds
// what was sent and has the digest that was told. Input: messages, each behind its length in a
// byte; half of the inputs get a header that is true.

#include <cstddef>
#include <cstdint>
#include <string>

#include "scheduler/check.h"
#include "services/expert_receiver.h"
#include "worker/sha256.h"

namespace {

using namespace conclave;

constexpr uint64_t kBytes = 64;

void Receive(std::string input, bool help) {
  services::ExpertReceiver receiver("fuzz", kBytes);
  worker::Sha256 sent;
  std::string sha256;
  for (size_t at = 0; at < input.size();) {
    const size_t length = static_cast<unsigned char>(input[at]);
    v1::ExpertChunk chunk;
    if (!chunk.ParseFromString(input.substr(at + 1, length))) return;
    at += 1 + length;
    if (help && chunk.has_header()) {
      worker::Sha256 right;
      right.Add(chunk.data());
      chunk.mutable_header()->set_bytes(kBytes);
      chunk.mutable_header()->set_sha256(right.Finish());
    }
    if (chunk.has_header()) sha256 = chunk.header().sha256();
    if (!receiver.Take(chunk).ok()) return;
    sent.Add(chunk.data());
  }
  const auto memory = receiver.Finish();
  if (!memory.ok()) return;
  CONCLAVE_CHECK(memory->size() == kBytes && memory->written() == kBytes);
  CONCLAVE_CHECK(sent.Finish() == sha256);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  Receive(input, /*help=*/false);
  Receive(input, /*help=*/true);
  return 0;
}
