#pragma once
// A certificate authority of a test's own: keys made on the spot, worthless elsewhere.

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

namespace conclave::services::testing {

struct PemPair {
  std::string certificate;
  std::string key;
};

class TestAuthority {
 public:
  TestAuthority();
  const std::string& certificate() const { return own_.certificate; }
  // For 127.0.0.1, good for an hour.
  PemPair Issue(const std::string& name) const;

 private:
  struct Free {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
    void operator()(X509* certificate) const { X509_free(certificate); }
  };
  using Key = std::unique_ptr<EVP_PKEY, Free>;
  using Certificate = std::unique_ptr<X509, Free>;

  // Signed by `issuer`, or by its own key if that is null.
  static Certificate Make(const std::string& name, EVP_PKEY* key, X509* issuer, EVP_PKEY* signer);
  static PemPair ToPem(X509* certificate, EVP_PKEY* key);

  Key key_;
  Certificate certificate_;
  PemPair own_;
};

}  // namespace conclave::services::testing
