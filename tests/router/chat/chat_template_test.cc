// What chat_compare cannot ask of rendering: who wrote which part of a text, messages of what is
// wrong, and every limit at its edge.

#include "router/chat/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

#include "tests/router/chat/rendered.h"

namespace conclave::router::chat {
namespace {

using conclave::testing::Render;
using conclave::testing::Rendered;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

std::string Repeated(const std::string& text, int times) {
  std::string repeated;
  for (int i = 0; i < times; ++i) repeated += text;
  return repeated;
}

TEST(ChatTemplate, KnowsWhatCameFromOutsideWhateverIsDoneToIt) {
  const Json variables = {{"c", "  ab,cd \"é\" "},
                          {"l", {"x", "y"}},
                          {"d", {{"k", "v\n"}}},
                          {"n", {{"<|x|>", 1}, {"word", 2}}}};
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"<{{ c }}>", "<[  ab,cd \"é\" ]>"},
      {"<{{ c | trim }}>", "<[ab,cd \"é\"]>"},
      {"{{ '<' + c.strip() + '>' }}", "<[ab,cd \"é\"]>"},
      {"{{ '<' ~ c[2:4] ~ '>' }}", "<[ab]>"},
      {"{{ c.split(',')[1] | upper }}", "[CD \"É\" ]"},
      {"{{ l | join('-') }}", "[x]-[y]"},
      {"{{ ', '.join(l) }}{{ l[0] * 2 }}", "[x], [yxx]"},
      {"{{ d | tojson }}", "{\"[k]\": \"[v\\n]\"}"},
      {"{{ d }}", "{'[k]': '[v\\n]'}"},
      {"{{ c | replace(',', ' and ') | trim }}", "[ab] and [cd \"é\"]"},
      {"{{ 'a-b' | replace('-', l[0]) }}", "a[x]b"},
      {"{{ '%s=%d' % (l[0], 3) }}{{ '{}!'.format(l[1]) }}", "[x]=3[y]!"},
      {"{{ l[0] | capitalize }}{{ l[0] | title }}{{ l | first }}{{ l | last }}", "[XXxy]"},
      {"{{ c | trim | indent(2) }}{{ l[0].center(5, '*') }}", "[ab,cd \"é\"]**[x]**"},
      {"{{ l[0] | e }}{{ ('<' + l[0]) | e }}", "[x]&lt;[x]"},
      {"{% set x %}a{{ l[0] }}b{% endset %}{{ x | reverse }}", "b[x]a"},
      {"{% macro m(a) %}({{ a }}){% endmacro %}{{ m(l[0]) | upper }}", "([X])"},
      {"{% filter upper %}q{{ l[0] }}{% endfilter %}", "Q[X]"},
      {"{{ l | map('upper') | list | string }}", "['[X]', '[Y]']"},
      {"{{ (c | trim).splitlines()[0] | truncate(6, true, '..', 0) }}", "[ab,c].."},
      {"{{ l | length }}{{ c | length }}{{ strftime_now('%Y') }}", "2122025"},
      // A plain word among names may be the template's own.
      {"{{ dict(role=1, **n) }}", "{'role': 1, '[<|x|>]': 1, 'word': 2}"},
      {"{% macro m() %}{{ kwargs }}{% endmacro %}{{ m(**n) }}", "{'[<|x|>]': 1, 'word': 2}"},
  };
  for (const auto& [source, marked] : cases) {
    SCOPED_TRACE(source);
    const Rendered rendered = Render(source, variables);
    EXPECT_EQ(rendered.error, "");
    EXPECT_EQ(rendered.marked, marked);
  }
}

// A template, and what is said of it.
struct Row {
  std::string source;
  std::string message;

  friend std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.message; }
};

class LoadingRefuses : public ::testing::TestWithParam<Row> {};

TEST_P(LoadingRefuses, WithTheLineAndTheConstruct) {
  std::string error;
  EXPECT_FALSE(ChatTemplate::Load(GetParam().source, {}, &error));
  EXPECT_THAT(error, HasSubstr(GetParam().message));
  EXPECT_THAT(error, HasSubstr("chat template"));
}

INSTANTIATE_TEST_SUITE_P(
    ChatTemplate, LoadingRefuses,
    ::testing::ValuesIn(std::vector<Row>{
        {"{{ x", "line 1: {{ is not closed by }}"},
        {"a\n{% if x", "line 2: {% is not closed by %}"},
        {"{# never", "line 1: a comment is not closed by #}"},
        {"{% raw %}x", "line 1: raw is not closed by {% endraw %}"},
        {"\n\n{% if x %}", "line 3: the template ends where 'endif' is expected"},
        {"{% for x in y %}{% endif %}", "line 1: the tag 'endif' is not supported"},
        {"{% endfor %}", "line 1: the tag 'endfor' is not supported"},
        {"{% include 'x' %}", "line 1: the tag 'include' is not supported"},
        {"{% extends 'x' %}", "line 1: the tag 'extends' is not supported"},
        {"{% import 'x' as y %}", "line 1: the tag 'import' is not supported"},
        {"{% block a %}{% endblock %}", "line 1: the tag 'block' is not supported"},
        {"{% autoescape true %}{% endautoescape %}", "the tag 'autoescape' is not supported"},
        {"{% trans %}{% endtrans %}", "line 1: the tag 'trans' is not supported"},
        {"{% do x %}", "line 1: the tag 'do' is not supported"},
        {"\n{% for a, (loop, b) in y %}{% endfor %}", "line 2: a for cannot assign to 'loop'"},
        {"x\n{{ y | frobnicate }}", "line 2: the filter 'frobnicate' is not supported"},
        {"{{ y | urlize }}", "line 1: the filter 'urlize' is not supported"},
        {"{% if y is strange %}{% endif %}", "line 1: the test 'strange' is not supported"},
        {"{{ lipsum() }}", "line 1: the function 'lipsum' is not supported"},
        {"{% set cycle = cycler('a') %}", "line 1: the function 'cycler' is not supported"},
        {"{{ }}", "expected an expression, found '}}'"},
        {"{{ a b }}", "expected '}}', found 'b'"},
        {"{{ a + }}", "unexpected '}}'"},
        {"{{ (a }}", "unexpected '}'"},
        {"{{ a) }}", "unexpected ')'"},
        {"{{ [1, 2) }}", "unexpected ')'"},
        {"{{ a[] }}", "[] is empty"},
        {"{{ a[1:2:3:4] }}", "a slice has at most two ':'"},
        {"{{ 'abc }}", "a string is not closed"},
        {"{{ '\\u12' }}", "a string has a \\u without its digits"},
        {"{{ '\\ud800' }}", "a string has an escape that is no character"},
        {"{{ '\\N{BULLET}' }}", "a string has a character by name"},
        {"{{ 99999999999999999999 }}", "the number 99999999999999999999 is beyond 64 bits"},
        {"{{ a ? b }}", "unexpected character '?'"},
        {"{{ a.1.5x }}", "expected '}}', found 'x'"},
        {"{{ f(a=1, 2) }}", "the arguments of a call are in the wrong order"},
        {"{{ f(**a, *b) }}", "the arguments of a call are in the wrong order"},
        {"{% set true = 1 %}", "'true' cannot be assigned to"},
        {"{% set a.b.c = 1 %}", "expected '%}', found '.'"},
        {"{% for 1 in x %}{% endfor %}", "expected a name, found '1'"},
        {"{% macro m(a=1, b) %}{% endmacro %}", "a parameter without a default follows one"},
        {"{% call x %}{% endcall %}", "a call tag needs a call of a macro"},
        {"{% break %}", "'break' stands in no loop"},
        {"{% for x in y %}{% macro m() %}{% continue %}{% endmacro %}{% endfor %}",
         "'continue' stands in no loop"},
        {"{% for x in y %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
         "'break' stands in no loop"},
        {"{{ a is string is mapping }}", "tests with 'is' cannot be chained"},
        {"\xff", "chat template: it is not UTF-8"},
    }));

class RenderingRefuses : public ::testing::TestWithParam<Row> {};

TEST_P(RenderingRefuses, WithTheLineAndTheReason) {
  const Json variables = {{"l", {1, 2}}, {"s", "text"}, {"d", {{"a", 1}}}, {"z", nullptr}};
  const Rendered rendered = Render(GetParam().source, variables);
  EXPECT_THAT(rendered.error, HasSubstr(GetParam().message));
  EXPECT_EQ(rendered.text, "");
}

INSTANTIATE_TEST_SUITE_P(
    ChatTemplate, RenderingRefuses,
    ::testing::ValuesIn(std::vector<Row>{
        {"\n{{ x.y }}", "chat template, line 2: 'x' is undefined"},
        {"{{ d.b.c }}", "'dict object' has no attribute 'b'"},
        {"{{ x + 1 }}", "'x' is undefined"},
        {"{{ x() }}", "'x' is undefined"},
        {"{{ s() }}", "a str cannot be called"},
        {"{{ s + 1 }}", "'+' does not take a str and a int"},
        {"{{ s < 1 }}", "'<' does not take a str and a int"},
        {"{{ 1 in z }}", "'in' does not take a NoneType"},
        {"{{ 1 // 0 }}", "division by zero"},
        {"{{ 9223372036854775807 + 1 }}", "a whole number goes beyond 64 bits"},
        {"{{ 10 ** 19 }}", "a whole number goes beyond 64 bits"},
        {"{{ l.append(3) }}", "access to attribute 'append' of 'list' object is unsafe."},
        {"{{ s.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe."},
        {"{{ d.pop('a') }}", "access to attribute 'pop' of 'dict' object is unsafe."},
        {"{{ x | tojson }}", "Object of type Undefined is not JSON serializable"},
        {"{{ range | tojson }}", "Object of type function is not JSON serializable"},
        {"{{ l | map('nope') | list }}", "the filter 'nope' is not supported"},
        {"{{ l | select('nope') | list }}", "the test 'nope' is not supported"},
        {"{{ l | map('upper') | length }}", "a generator has no length"},
        {"{% for a, b in l %}{% endfor %}", "'int' object is not iterable"},
        {"{% set a, b, c = l %}", "there are 2 values for 3 names"},
        {"{% set s.a = 1 %}", "cannot assign an attribute on what is no namespace"},
        {"{% set n = namespace() %}{% set n._a = 1 %}", "takes no name that begins with _"},
        {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "macro 'm' takes not more than 1"},
        {"{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", "macro 'm' takes no keyword argument 'b'"},
        {"{{ {l: 1} }}", "a list cannot be the key of a mapping"},
        {"{{ '%d' % s }}", "format %d does not take a str"},
        {"{{ '%s %s' % s }}", "not enough arguments for format string"},
        {"{{ s.split('') }}", "empty separator"},
        {"{{ s | join(1, 2, 3) }}", "join takes at most 2 arguments, not 3"},
        {"{{ s | trim(x=1) }}", "trim takes no argument 'x'"},
        {"{{ l[::0] }}", "slice step cannot be zero"},
        {"{{ range(100001) | length }}", "a range has more than 100000 items, the limit"},
        {"{{ d[1:] }}", "a dict cannot be sliced"},
        {"{{ z[:2] }}", "a NoneType cannot be sliced"},
        {"{{ l[s:] }}", "a slice takes whole numbers, not a str"},
        {"{% filter length %}abc{% endfilter %}", "the filter of a block makes a int"},
        {"{{ '{} {0}'.format(1) }}", "a format has both {} and {0}"},
        {"{% for x in l %}{{ loop(l) }}{% endfor %}", "is for a loop that says 'recursive'"},
        {"{% for x in l recursive %}{{ loop(l, l) }}{% endfor %}", "loop(...) takes one argument"},
        {"{{ raise_exception('No: ' ~ s) }}", "chat template: No: text"},
    }));

TEST(ChatTemplate, RefusesOnlyWhatIsLargerThanItsLimits) {
  const ChatLimits limits{.template_bytes = 100, .syntax_nodes = 40, .syntax_depth = 10};
  EXPECT_EQ(Render(std::string(100, 'a'), {}, limits).error, "");
  EXPECT_EQ(Render(std::string(101, 'a'), {}, limits).error,
            "chat template: it has 101 bytes, the limit is 100");
  const ChatLimits roomy{.syntax_nodes = 40, .syntax_depth = 10};
  EXPECT_EQ(Render("{{ 1" + Repeated("+1", 8) + " }}", {}, roomy).error, "");
  EXPECT_THAT(Render("{{ 1" + Repeated("+1", 12) + " }}", {}, roomy).error,
              HasSubstr("nested more than 10 deep, the limit"));
  EXPECT_THAT(Render("{{ [" + Repeated("1,", 30) + "] }}", {}, roomy).error,
              HasSubstr("more than 40 nodes, the limit"));
}

TEST(ChatTemplate, RefusesNestingThatWouldOverflowItsStack) {
  for (const std::string& deep :
       {"{{ " + Repeated("(", 5000) + "1" + Repeated(")", 5000) + " }}",
        "{{ " + Repeated("[", 5000) + Repeated("]", 5000) + " }}",
        "{{ " + Repeated("not ", 5000) + "1 }}", "{{ " + Repeated("-", 5000) + "1 }}",
        "{{ 1" + Repeated(".a", 5000) + " }}", "{{ 1" + Repeated("|abs", 5000) + " }}",
        "{{ 1" + Repeated(" if 1 else 1", 5000) + " }}", Repeated("{% if 1 %}", 5000),
        "{% set " + Repeated("(", 5000) + "a" + Repeated(")", 5000) + " = 1 %}",
        "{{ f" + Repeated("()", 5000) + " }}"}) {
    EXPECT_THAT(Render(deep).error, HasSubstr("deep, the limit")) << deep.substr(0, 40);
  }
}

TEST(ChatTemplate, EndsWhateverDoesNotEndByItself) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested more than 500 deep"},
      {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "limit"},
      {"{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}"
       "{% endfor %}",
       "its values have more than"},
      {"{{ 'a' * 99999999999 }}", "the limit"},
      {"{{ [1] * 99999999999 }}", "the limit"},
      {"{{ 'a'.center(99999999999) }}", "the limit"},
      {"{{ 'a'.zfill(99999999999) }}", "the limit"},
      {"{{ '%99999999999d' % 1 }}", "a format's width or precision is above 1000"},
      {"{{ '{:99999999999}'.format('a') }}", "a format's width or precision is above 1000"},
      {"{{ 'a\nb' | indent(99999999999) }}", "the limit"},
      {"{% set n = namespace(l=[]) %}{% for i in range(200) %}{% set n.l = [n.l] %}{% endfor %}",
       "lists are nested more than 100 deep, the limit"},
      {"{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}"
       "{% endfor %}{{ n.l }}",
       "the limit"},
      {"{% set n = namespace(l=[1], m=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}"
       "{% set n.m = [n.m, n.m] %}{% endfor %}{{ n.l == n.m }}",
       "the limit"},
      {"{% set n = namespace() %}{% set n.n = n %}{{ n }}", "a Namespace cannot be printed"},
      {"{% set n = namespace() %}{% set n.n = [n] %}{{ n.n }}", "a Namespace cannot be printed"},
      {"{{ ('a' * 100000) | replace('', 'b' * 100000) }}", "the limit"},
      {"{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "the text has more than"},
  };
  for (const auto& [source, message] : cases) {
    SCOPED_TRACE(source);
    EXPECT_THAT(Render(source).error, HasSubstr(message));
  }
}

TEST(ChatTemplate, CountsTheKeysOfMappingsAndWhatAStringRemembers) {
  const Json variables = {{"m", std::string(100'000, 'x')}};
  const ChatLimits limits{.made_bytes = 2'000'000};
  const auto error = [&](const std::string& source) {
    return Render(source, variables, limits).error;
  };
  // A key has the bytes of the strings in its tuple.
  EXPECT_EQ(error("{% set z = {(m, m): 1} %}"), "");
  EXPECT_THAT(error("{% for i in range(9) %}{% set z = {(m, m): 1} %}{% endfor %}"),
              HasSubstr("its values have more than 2000000 bytes, the limit"));
  // Of every second byte it is known whose it is.
  EXPECT_EQ(error("{% set z = 'x' * 400000 %}"), "");
  EXPECT_THAT(error("{% set z = (m[:100] | join('-')) * 2000 %}"),
              HasSubstr("its values have more than 2000000 bytes, the limit"));
}

TEST(ChatTemplate, CountsTheNamesAmongWhichItLooks) {
  std::string many;
  for (int i = 0; i < 3000; ++i) many += "{% set v" + std::to_string(i) + " = 1 %}";
  const ChatLimits limits{.steps = 300'000};
  EXPECT_EQ(Render(many, {}, limits).error, "");
  EXPECT_THAT(
      Render(many + "{% for i in range(2000) %}{{ none }}{{ x }}{% endfor %}", {}, limits).error,
      HasSubstr("steps, the limit"));
}

TEST(ChatTemplate, StopsWithinBriefLimits) {
  const ChatLimits brief = BriefLimits({});
  for (const char* const source : {"{% for i in range(50000) %}{% endfor %}",
                                   "{% set z = 'a' * 3000000 %}", "{{ 'a' * 40000 }}"}) {
    EXPECT_EQ(Render(source).error, "") << source;
    EXPECT_THAT(Render(source, {}, brief).error, HasSubstr("the limit")) << source;
  }
  EXPECT_EQ(BriefLimits({.steps = 10, .made_bytes = 11, .output_bytes = 12}).steps, 10);
}

TEST(ChatTemplate, CountsStepsAndOutputToTheLast) {
  const std::string source = "{{ x }}{{ x }}";
  int64_t steps = 1;
  while (!Render(source, {{"x", "abc"}}, {.steps = steps}).error.empty()) ++steps;
  EXPECT_THAT(Render(source, {{"x", "abc"}}, {.steps = steps - 1}).error,
              HasSubstr("it takes more than " + std::to_string(steps - 1) + " steps, the limit"));
  EXPECT_EQ(Render(source, {{"x", "abc"}}, {.output_bytes = 6}).text, "abcabc");
  EXPECT_THAT(Render(source, {{"x", "abc"}}, {.output_bytes = 5}).error,
              HasSubstr("the text has more than 5 bytes, the limit"));
}

TEST(ChatTemplate, FindsAHostilePatternInLinearTime) {
  const std::string text(400'000, 'a');
  const Json variables = {{"in", text}, {"what", std::string(200'000, 'a') + "b"}};
  EXPECT_EQ(
      Render("{{ what in in }}{{ in.split(what) | length }}{{ in.rfind(what) }}", variables).text,
      "False1-1");
}

TEST(ChatTemplate, KeepsItsLiteralsApart) {
  std::string error;
  const auto loaded =
      ChatTemplate::Load("<|a|>{{ '<|b' }}{{ '|>' 'c' }}{% raw %}{{d}}{% endraw %}", {}, &error);
  ASSERT_TRUE(loaded) << error;
  using namespace std::string_literals;
  EXPECT_EQ(loaded->literals(), "\0<|a|>\0<|b\0|>c\0{{d}}"s);
}

}  // namespace
}  // namespace conclave::router::chat
