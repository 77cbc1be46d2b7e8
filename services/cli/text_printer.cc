#include "services/cli/text_printer.h"

namespace conclave::services::cli {

void TextPrinter::Add(const std::string& text) {
  if (text.empty()) return;
  Put(io_.terminal ? terminal_.Add(text) : text);
}

void TextPrinter::End() {
  if (io_.terminal) Put(terminal_.End());
  if (in_line_) Put("\n");
}

void TextPrinter::Put(const std::string& text) {
  if (text.empty()) return;
  io_.out << text << std::flush;
  in_line_ = text.back() != '\n';
}

}  // namespace conclave::services::cli
