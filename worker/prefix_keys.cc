#include "worker/prefix_keys.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <cstring>
#include <string>

#include "scheduler/check.h"

namespace conclave::worker {
namespace {

using scheduler::BlockKey;
using scheduler::TokenId;
using Digest = std::array<uint8_t, 32>;

Digest Sha256(std::string_view bytes) {
  Digest digest;
  unsigned int length = 0;
  CONCLAVE_CHECK(
      EVP_Digest(bytes.data(), bytes.size(), digest.data(), &length, EVP_sha256(), nullptr) == 1);
  CONCLAVE_CHECK(length == digest.size());
  return digest;
}

// With its length before it, so that fields cannot flow into each other.
void AddField(std::string_view field, std::string& to) {
  const uint64_t size = field.size();
  to.append(reinterpret_cast<const char*>(&size), sizeof(size));
  to.append(field);
}

std::string_view Bytes(const auto& array) {
  return {reinterpret_cast<const char*>(array.data()), sizeof(array)};
}

BlockKey ToKey(const Digest& digest) {
  BlockKey key;
  static_assert(sizeof(key.words) == sizeof(digest));
  std::memcpy(key.words.data(), digest.data(), digest.size());
  return key;
}

}  // namespace

PrefixKeys::PrefixKeys(std::string_view model, std::string_view numerics, int32_t block_size)
    : block_size_(block_size) {
  CONCLAVE_CHECK(block_size >= 1);
  Digest secret;
  CONCLAVE_CHECK(RAND_bytes(secret.data(), static_cast<int>(secret.size())) == 1);
  std::string fields;
  AddField(Bytes(secret), fields);
  AddField(model, fields);
  AddField(numerics, fields);
  base_ = Sha256(fields);
}

BlockKey PrefixKeys::Root(const Scope& scope) const {
  std::string fields;
  AddField(Bytes(base_), fields);
  AddField(scope.adapter, fields);
  AddField(scope.salt, fields);
  AddField({reinterpret_cast<const char*>(&scope.epoch), sizeof(scope.epoch)}, fields);
  return ToKey(Sha256(fields));
}

BlockKey PrefixKeys::Next(const BlockKey& parent, std::span<const TokenId> tokens) const {
  CONCLAVE_CHECK(std::ssize(tokens) == block_size_);
  std::string block(Bytes(parent.words));
  block.append(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
  return ToKey(Sha256(block));
}

std::vector<BlockKey> PrefixKeys::Chain(const BlockKey& root,
                                        std::span<const TokenId> tokens) const {
  const auto size = static_cast<size_t>(block_size_);
  std::vector<BlockKey> keys;
  keys.reserve(tokens.size() / size);
  for (size_t end = size; end <= tokens.size(); end += size) {
    keys.push_back(Next(keys.empty() ? root : keys.back(), tokens.subspan(end - size, size)));
  }
  return keys;
}

}  // namespace conclave::worker
