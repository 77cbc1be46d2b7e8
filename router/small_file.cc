#include "router/small_file.h"

#include <fstream>
#include <system_error>

namespace conclave::router {

namespace fs = std::filesystem;

std::optional<std::string> ReadSmallFile(const fs::path& path, size_t bytes_max,
                                         std::string* problem) {
  problem->clear();
  const auto refuse = [&](const std::string& what) {
    *problem = path.filename().string() + what;
    return std::nullopt;
  };
  std::error_code failure;
  if (fs::symlink_status(path, failure).type() == fs::file_type::not_found) return std::nullopt;
  // Followed: the directories of a cache consist of links.
  const fs::file_status status = fs::status(path, failure);
  if (status.type() == fs::file_type::not_found) return refuse(" is a link to nothing");
  if (failure) return refuse(" cannot be read: " + failure.message());
  if (status.type() != fs::file_type::regular) return refuse(" is not a regular file");
  const auto bytes = fs::file_size(path, failure);
  if (!failure && bytes > bytes_max) {
    return refuse(" has " + std::to_string(bytes) + " bytes, the limit is " +
                  std::to_string(bytes_max));
  }
  std::ifstream file(path, std::ios::binary);
  std::string content(failure ? 0 : bytes, '\0');
  if (failure || !file.read(content.data(), static_cast<std::streamsize>(content.size()))) {
    return refuse(" cannot be read");
  }
  return content;
}

}  // namespace conclave::router
