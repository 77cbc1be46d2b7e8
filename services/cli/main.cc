// conclave: the command-line tool.

#include <unistd.h>

#include <iostream>

#include "services/cli/command.h"

int main(int argc, char** argv) {
  using namespace conclave::services;
  std::ios::sync_with_stdio(false);
  cli::Io io = {std::cout, std::cerr, isatty(STDOUT_FILENO) == 1, std::cin,
                isatty(STDIN_FILENO) == 1};
  return cli::Run({argv + 1, argv + argc}, io);
}
