#include "router/chat/parser.h"

#include <algorithm>
#include <array>
#include <string>
#include <unordered_set>
#include <utility>

#include "router/chat/expression_parser.h"
#include "router/chat/token_stream.h"

namespace conclave::router::chat {
namespace {

bool Assigns(const Target& target, std::string_view name) {
  if (!target.tuple) return target.name == name;
  return std::any_of(target.items.begin(), target.items.end(),
                     [&](const Target& one) { return Assigns(one, name); });
}

// The statements.
class Parser {
 public:
  explicit Parser(TokenStream& stream) : stream_(stream) {}

  Body Template() { return Statements({}); }

 private:
  using Names = std::initializer_list<std::string_view>;

  // Up to {% and one of `ends`, which is left current; up to the end of the template if there are
  // none.
  Body Statements(Names ends) {
    Body body;
    const TokenStream::Level level(stream_);
    while (!stream_.failed()) {
      const Token& token = stream_.current();
      switch (token.kind) {
        case Token::Kind::kData:
          Add(&body, token.line, Data{Text(token.text)});
          stream_.Take();
          break;
        case Token::Kind::kVariableBegin: {
          const int32_t line = stream_.Take().line;
          Add(&body, line, Output{ParseTuple(stream_)});
          stream_.Expect(Token::Kind::kVariableEnd, "'}}'");
          break;
        }
        case Token::Kind::kBlockBegin: {
          const int32_t line = stream_.Take().line;
          const auto ends_here = [&](std::string_view end) {
            return stream_.current().IsName(end);
          };
          if (std::any_of(ends.begin(), ends.end(), ends_here)) return body;
          ParseStatement(&body, line);
          stream_.Expect(Token::Kind::kBlockEnd, "'%}'");
          break;
        }
        case Token::Kind::kEnd:
          if (ends.size() > 0) {
            stream_.Fail("the template ends where '" + std::string(*(ends.end() - 1)) +
                         "' is expected");
          }
          return body;
        default:
          stream_.FailUnexpected();
      }
    }
    return body;
  }

  // The body of a statement whose tag is parsed, and its end.
  Body Block(Names ends) {
    stream_.TakeOperator(":");
    stream_.Expect(Token::Kind::kBlockEnd, "'%}'");
    return Statements(ends);
  }
  Body WholeBlock(std::string_view end) {
    Body body = Block({end});
    stream_.ExpectName(end);
    return body;
  }
  // One that no jump leads out of.
  Body OwnBlock(std::string_view end) {
    const int32_t loops = std::exchange(loops_, 0);
    Body body = WholeBlock(end);
    loops_ = loops;
    return body;
  }

  void Add(Body* body, int32_t line, Statement::Kind kind) {
    if (!stream_.CountNode(line)) return;
    auto statement = std::make_unique<Statement>();
    statement->kind = std::move(kind);
    statement->line = line;
    body->push_back(std::move(statement));
  }

  void ParseStatement(Body* body, int32_t line) {
    const std::string name = stream_.ExpectAnyName();
    if (name == "set") return ParseSet(body, line);
    if (name == "if") return Add(body, line, ParseIf());
    if (name == "for") return Add(body, line, ParseFor());
    if (name == "macro") {
      std::string macro = stream_.ExpectAnyName();
      return Add(body, line, MacroDefinition{ParseMacro(std::move(macro), "endmacro", true)});
    }
    if (name == "call") return Add(body, line, ParseCall(line));
    if (name == "filter") {
      ExpressionPtr filter = ParseFilters(stream_, nullptr, true);
      return Add(body, line, FilterBlock{std::move(filter), WholeBlock("endfilter")});
    }
    if (name == "with") return Add(body, line, ParseWith());
    if (name == "generation") return Add(body, line, Generation{OwnBlock("endgeneration")});
    if (name == "print") {
      while (!stream_.failed() && stream_.current().kind != Token::Kind::kBlockEnd) {
        Add(body, line, Output{ParseExpression(stream_)});
        if (!stream_.TakeOperator(",")) break;
      }
      return;
    }
    if (name == "break" || name == "continue") return ParseJump(body, line, name);
    stream_.FailAt(line, "the tag '" + name.substr(0, 60) + "' is not supported");
  }

  void ParseJump(Body* body, int32_t line, const std::string& name) {
    if (loops_ == 0) stream_.FailAt(line, "'" + name + "' stands in no loop");
    if (name == "break") return Add(body, line, Break());
    Add(body, line, Continue());
  }

  void ParseSet(Body* body, int32_t line) {
    Target target = ParseTarget(stream_, true);
    if (stream_.TakeOperator("=")) {
      return Add(body, line, Set{std::move(target), ParseTuple(stream_)});
    }
    ExpressionPtr filter = ParseFilters(stream_, nullptr, false);
    Body content = OwnBlock("endset");
    Add(body, line, SetBlock{std::move(target), std::move(filter), std::move(content)});
  }

  If ParseIf() {
    If node;
    do {
      ExpressionPtr condition = ParseTuple(stream_, false);
      node.branches.emplace_back(std::move(condition), Block({"elif", "else", "endif"}));
    } while (stream_.TakeName("elif"));
    if (stream_.TakeName("else")) node.otherwise = Block({"endif"});
    stream_.ExpectName("endif");
    return node;
  }

  For ParseFor() {
    For node;
    const int32_t line = stream_.current().line;
    node.target = ParseTarget(stream_, false);
    if (Assigns(node.target, "loop")) stream_.FailAt(line, "a for cannot assign to 'loop'");
    stream_.ExpectName("in");
    node.items = ParseTuple(stream_, false);
    if (stream_.TakeName("if")) node.condition = ParseExpression(stream_);
    node.recursive = stream_.TakeName("recursive");
    ++loops_;
    node.body = Block({"endfor", "else"});
    --loops_;
    if (stream_.TakeName("else")) node.otherwise = Block({"endfor"});
    stream_.ExpectName("endfor");
    return node;
  }

  With ParseWith() {
    With node;
    while (!stream_.failed() && stream_.current().kind != Token::Kind::kBlockEnd) {
      if (!node.bindings.empty()) stream_.ExpectOperator(",");
      Target target = ParseTarget(stream_, false);
      stream_.ExpectOperator("=");
      node.bindings.emplace_back(std::move(target), ParseExpression(stream_));
    }
    node.body = WholeBlock("endwith");
    return node;
  }

  CallBlock ParseCall(int32_t line) {
    CallBlock node;
    std::vector<Parameter> parameters;
    if (stream_.current().IsOperator("(")) parameters = Signature();
    node.call = ParseExpression(stream_);
    if (node.call != nullptr && !std::holds_alternative<Call>(node.call->kind)) {
      stream_.FailAt(line, "a call tag needs a call of a macro");
    }
    node.caller = ParseMacro("caller", "endcall", false);
    node.caller.parameters = std::move(parameters);
    return node;
  }

  Macro ParseMacro(std::string name, std::string_view end, bool with_signature) {
    Macro macro;
    macro.name = std::move(name);
    if (with_signature) macro.parameters = Signature();
    const size_t begin = stream_.position();
    macro.body = OwnBlock(end);
    macro.takes_varargs = stream_.Named("varargs", begin);
    macro.takes_kwargs = stream_.Named("kwargs", begin);
    macro.takes_caller = stream_.Named("caller", begin);
    return macro;
  }

  std::vector<Parameter> Signature() {
    std::vector<Parameter> parameters;
    stream_.ExpectOperator("(");
    while (!stream_.failed() && !stream_.current().IsOperator(")")) {
      if (!parameters.empty()) stream_.ExpectOperator(",");
      Parameter parameter{.name = stream_.ExpectAnyName()};
      if (stream_.TakeOperator("=")) {
        parameter.otherwise = ParseExpression(stream_);
      } else if (!parameters.empty() && parameters.back().otherwise != nullptr) {
        stream_.Fail("a parameter without a default follows one that has one");
      }
      parameters.push_back(std::move(parameter));
    }
    stream_.ExpectOperator(")");
    return parameters;
  }

  TokenStream& stream_;
  int32_t loops_ = 0;  // around what is parsed, in the same macro
};

}  // namespace

std::optional<Body> Parse(std::vector<Token> tokens, const ChatLimits& limits, SyntaxError* error) {
  TokenStream stream(std::move(tokens), limits);
  Body body = Parser(stream).Template();
  if (!stream.failed()) return body;
  *error = stream.error();
  return std::nullopt;
}

}  // namespace conclave::router::chat
