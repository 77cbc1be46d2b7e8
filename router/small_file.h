#pragma once
// A small file of a checkpoint's directory, which others have filled: it may be no file at all.

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>

namespace conclave::router {

// The file's bytes. nullopt and an empty *problem: there is none. nullopt and a *problem that names
// it: a link to nowhere, something other than a file (a pipe, say, which is not opened), one that
// is longer than bytes_max (which is not read), or that cannot be read.
std::optional<std::string> ReadSmallFile(const std::filesystem::path& path, size_t bytes_max,
                                         std::string* problem);

}  // namespace conclave::router
