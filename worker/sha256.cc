#include "worker/sha256.h"

#include <cstdint>

#include "scheduler/check.h"

namespace conclave::worker {

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  CONCLAVE_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() { EVP_MD_CTX_free(context_); }

void Sha256::Add(std::string_view bytes) {
  CONCLAVE_CHECK(EVP_DigestUpdate(context_, bytes.data(), bytes.size()) == 1);
}

void Sha256::AddField(std::string_view field) {
  const uint64_t size = field.size();
  Add({reinterpret_cast<const char*>(&size), sizeof(size)});
  Add(field);
}

std::string Sha256::Finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  CONCLAVE_CHECK(EVP_DigestFinal_ex(context_, digest, &size) == 1 && size == kBytes);
  return {reinterpret_cast<const char*>(digest), size};
}

}  // namespace conclave::worker
