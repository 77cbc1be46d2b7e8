#include "tests/services/testing/certificates.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "scheduler/check.h"

namespace conclave::services::testing {
namespace {

std::string Take(BIO* bio) {
  char* bytes = nullptr;
  const long size = BIO_get_mem_data(bio, &bytes);
  std::string text(bytes, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}

void AddExtension(X509* certificate, int what, const char* value) {
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, what, value);
  CONCLAVE_CHECK(extension != nullptr);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

}  // namespace

TestAuthority::TestAuthority()
    : key_(EVP_EC_gen("P-256")),
      certificate_(Make("authority", key_.get(), nullptr, key_.get())),
      own_(ToPem(certificate_.get(), key_.get())) {}

PemPair TestAuthority::Issue(const std::string& name) const {
  const Key key(EVP_EC_gen("P-256"));
  const Certificate certificate = Make(name, key.get(), certificate_.get(), key_.get());
  return ToPem(certificate.get(), key.get());
}

TestAuthority::Certificate TestAuthority::Make(const std::string& name, EVP_PKEY* key, X509* issuer,
                                               EVP_PKEY* signer) {
  Certificate certificate(X509_new());
  X509_set_version(certificate.get(), X509_VERSION_3);
  static int serial = 0;
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3600);
  X509_NAME* const subject = X509_get_subject_name(certificate.get());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_issuer_name(certificate.get(),
                       issuer == nullptr ? subject : X509_get_subject_name(issuer));
  X509_set_pubkey(certificate.get(), key);
  if (issuer == nullptr) {
    AddExtension(certificate.get(), NID_basic_constraints, "critical,CA:TRUE");
  } else {
    AddExtension(certificate.get(), NID_subject_alt_name, "IP:127.0.0.1");
  }
  CONCLAVE_CHECK(X509_sign(certificate.get(), signer, EVP_sha256()) > 0);
  return certificate;
}

PemPair TestAuthority::ToPem(X509* certificate, EVP_PKEY* key) {
  BIO* const certificate_bio = BIO_new(BIO_s_mem());
  BIO* const key_bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(certificate_bio, certificate);
  PEM_write_bio_PrivateKey(key_bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  return {Take(certificate_bio), Take(key_bio)};
}

}  // namespace conclave::services::testing
