#pragma once
// SHA-256 of what comes in pieces. One thread.

#include <openssl/evp.h>

#include <string>
#include <string_view>

namespace conclave::worker {

class Sha256 {
 public:
  static constexpr size_t kBytes = 32;  // of a digest

  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Add(std::string_view bytes);
  // With its length, so that no two sequences of fields are the same bytes.
  void AddField(std::string_view field);
  // Of all that was added; the last call.
  std::string Finish();

 private:
  EVP_MD_CTX* const context_;
};

}  // namespace conclave::worker
