#pragma once
// Where a parser is in its tokens, what it may still make of them, and the first thing that was
// wrong. Parsing functions return null or nothing once failed() holds. One thread.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "router/chat/lexer.h"
#include "router/chat/work.h"

namespace conclave::router::chat {

class TokenStream {
 public:
  TokenStream(std::vector<Token> tokens, const ChatLimits& limits)
      : tokens_(std::move(tokens)), limits_(limits) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[at_ + (at_ + 1 < tokens_.size() ? 1 : 0)]; }
  size_t position() const { return at_; }
  // Whether a name stands anywhere from that position on to the current one.
  bool Named(std::string_view name, size_t from) const;
  Token Take();
  bool TakeOperator(std::string_view op);
  bool TakeName(std::string_view name);
  void ExpectOperator(std::string_view op);
  void ExpectName(std::string_view name);
  void Expect(Token::Kind kind, const char* what);
  std::string ExpectAnyName();

  void Fail(const std::string& what) { FailAt(current().line, what); }
  void FailAt(int32_t line, const std::string& what);
  void FailUnexpected();
  bool failed() const { return !error_.what.empty(); }
  const SyntaxError& error() const { return error_; }

  // Counts a node, and the depth of what it stands in and over.
  bool CountNode(int32_t line, int32_t depth = 0);
  // While it lives, one level deeper in the source.
  class Level {
   public:
    explicit Level(TokenStream& stream) : stream_(stream) {
      ++stream.level_;
      stream.CountNode(stream.current().line);
    }
    ~Level() { --stream_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    TokenStream& stream_;
  };

 private:
  const std::vector<Token> tokens_;
  const ChatLimits limits_;
  size_t at_ = 0;
  int32_t level_ = 0;
  int32_t nodes_ = 0;
  SyntaxError error_;
};

// How a token is called in a message.
std::string Describe(const Token& token);

}  // namespace conclave::router::chat
