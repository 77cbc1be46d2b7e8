// Stands for libFuzzer where it is not: runs a fuzz target on every file of a corpus and on a fixed
// number of simple mutations of each. fuzz_NAME (DIR | FILE)...

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/sim/random.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr int kMutationsPerFile = 500;

void Run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

std::string Mutate(std::string input, conclave::sim::Random& random) {
  for (int changes = random.Between(1, 4); changes > 0 && !input.empty(); --changes) {
    const auto size = static_cast<int32_t>(input.size());
    const auto at = static_cast<size_t>(random.Between(0, size - 1));
    switch (random.Between(0, 3)) {
      case 0:
        input[at] = static_cast<char>(random.Next());
        break;
      case 1:
        input.erase(at, static_cast<size_t>(random.Between(1, 8)));
        break;
      case 2:
        input.insert(at, input.substr(static_cast<size_t>(random.Between(0, size - 1)), 16));
        break;
      default:
        input.resize(at);
    }
  }
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < argc; ++i) {
    if (!std::filesystem::is_directory(argv[i])) {
      files.emplace_back(argv[i]);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) files.push_back(entry);
  }
  std::sort(files.begin(), files.end());
  conclave::sim::Random random(1);
  size_t runs = 0;
  for (const std::filesystem::path& path : files) {
    std::ifstream file(path, std::ios::binary);
    const std::string input{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    Run(input);
    for (int i = 0; i < kMutationsPerFile; ++i) Run(Mutate(input, random));
    runs += 1 + kMutationsPerFile;
  }
  std::printf("%zu files, %zu inputs\n", files.size(), runs);
  return files.empty() ? 1 : 0;
}
