"""The language of chat templates piece by piece, for chat_oracle.py: what each renders to is Python's Jinja's to say."""

# What every piece is rendered with.
VARIABLES = {'messages': [{'role': 'user', 'content': 'Hé <|x|> "q" \'a\'\n'},
              {'role': 'assistant',
               'content': '  yes  ',
               'tool_calls': [{'name': 'f', 'arguments': {'a': 1, 'b': [1.5, None, True, 'é\u2028']}}]}],
 'n': 5,
 'f': 2.5,
 's': 'a,b,,c',
 't': True,
 'z': None,
 'd': {'b': 1, 'A': 2, 'c': {'x': [1, 2]}},
 'l': [3, 1, 2],
 'w': ['b', 'A', 'c', 'a'],
 'e': [],
 'u': 'straße ΑΣ ǆ ﬁ İ'}

# One thing each.
SNIPPETS = r'''
{{ messages }}
{{ d }}|{{ d|tojson }}|{{ d|tojson(indent=2) }}|{{ d|tojson(indent=4, sort_keys=true) }}|{{ messages|tojson(ensure_ascii=true) }}
{{ d|tojson(separators=(',', ':')) }}{{ l|tojson(indent=0) }}
{{ '<' + ('<b>'|safe) }}{{ ('<b>'|safe) + '<' }}{{ '<' ~ ('<b>'|safe) }}{{ '<&>"\''|e }}
{% for k, v in d.items() %}{{ loop.index }}{{ k }}={{ v }}{{ ',' if not loop.last }}{% endfor %}
{% for k in d %}{{ k }}{% endfor %}{% for k in d|dictsort %}{{ k }}{% endfor %}{{ d.keys()|list }}{{ d.values()|list }}
{% for x in l if x > 1 %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.length }}{{ x }}{% else %}none{% endfor %}
{% for x in e %}a{% else %}none{% endfor %}
{% for x in l %}{{ loop.previtem }}-{{ loop.nextitem }};{{ loop.cycle('a','b') }}{{ loop.changed(x > 1) }}{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if x == 2 %}{% break %}{% endif %}{% endfor %}
{% set ns = namespace(a=1, b='x') %}{% for x in l %}{% set ns.a = ns.a + x %}{% endfor %}{{ ns.a }}{{ ns.b }}
{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% if n > 3 and f < 3 or false %}yes{% elif t %}x{% else %}no{% endif %}
{{ 1 < n < 10 }}{{ 1 < n > 10 }}{{ n in l }}{{ 3 in l }}{{ 'a' in s }}{{ 'x' not in s }}{{ 'b' in d }}
{{ s.split(',') }}{{ ' a  b c '.split() }}{{ ' a  b c '.split(None, 1) }}{{ s.split(',', 1) }}{{ s.rsplit(',', 1) }}{{ 'a\nb\r\nc'.splitlines() }}
{{ s[1:] }}{{ s[:-1] }}{{ s[::-1] }}{{ s[1:5:2] }}{{ s[-1] }}{{ l[::-1] }}{{ l[-2:] }}{{ l[5:] }}{{ u[2:6] }}{{ u[-3] }}{{ messages[1:] | length }}
{{ '  x '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xxaxx'.lstrip('x') }}|{{ 'xxaxx'.rstrip('x') }}|{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x','bc')) }}
{{ u|upper }}|{{ u|lower }}|{{ u|title }}|{{ u|capitalize }}|{{ u.title() }}|{{ u.swapcase() }}|{{ 'hello-world (foo) it\'s'|title }}|{{ "it's".title() }}
{{ x is defined }}{{ z is none }}{{ s is string }}{{ d is mapping }}{{ l is iterable }}{{ l is sequence }}{{ n is number }}{{ n is integer }}{{ f is float }}{{ t is boolean }}{{ t is true }}{{ t is false }}{{ n is odd }}{{ n is even }}{{ 3 is in l }}{{ n is eq 5 }}{{ n is not none }}{{ d is not string }}{{ s is sequence }}{{ s is iterable }}{{ x is sequence }}{{ z is iterable }}
{{ x|default('d') }}{{ z|default('d') }}{{ z|default('d', true) }}{{ ''|d('e', boolean=true) }}
{{ l|join('-') }}{{ l|first }}{{ l|last }}{{ l|length }}{{ s|length }}{{ u|length }}{{ l|sort }}{{ w|sort }}{{ w|sort(case_sensitive=true) }}{{ w|sort(reverse=true) }}{{ w|unique|list }}{{ l|sum }}{{ l|max }}{{ l|min }}{{ l|reverse|list }}{{ s|reverse }}
{{ messages|map(attribute='role')|list }}{{ messages|map(attribute='tool_calls', default=[])|list }}{{ w|map('upper')|join }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ messages|rejectattr('role', '==', 'user')|map(attribute='content')|list }}{{ l|select('>', 1)|list }}{{ l|reject('odd')|list }}{{ messages|selectattr('tool_calls')|list|length }}{{ messages|selectattr('tool_calls', 'defined')|list|length }}
{% if messages|selectattr('role', 'equalto', 'none')  %}gen{% endif %}
{{ '%s is %d and %.2f %r %5s|%-5s|%05d|%x%%' % ('a', 3, 2.5, 'q', 'r', 'l', 42, 255) }}{{ '%s' % n }}{{ '%s %s'|format('a', z) }}
{{ '{} {1} {}'.format(1, 2) if false else '{} {}'.format(1, 'b') }}{{ '{0}{a}{0!r:>5}{b:.2f}|{c:<5}|{c:^5}|{n:05d}|{n:,}'.format('x', a=2, b=1.239, c='m', n=1234567) }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ 'a' * 3 }} {{ [1] * 2 }} {{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ true + 1 }} {{ -2 ** 2 }} {{ +n }} {{ n - 1 }}{{ n -1 }}{{ 1.5 + 1 }} {{ 10 / 5 }}
{{ 1.0 }} {{ 1e16 }} {{ 123456789012345680.0 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1.5e300 }} {{ 1_000 }} {{ 0x10 }} {{ 5e-324 }} {{ 1e15 }} {{ 100000.0 }} {{ 0o17 }} {{ 0b11 }}
{{ '3'|int }}{{ 'x'|int }}{{ '3.7'|int }}{{ 'ff'|int(0, 16) }}{{ '0x1f'|int(base=16) }}{{ 3.99|int }}{{ '2.5'|float }}{{ 'x'|float(1.5) }}{{ -3|abs }}{{ 2.5|round }}{{ 3.5|round }}{{ 2.675|round(2) }}{{ 5|round }}{{ 1.21|round(1, 'ceil') }}{{ 15|round(-1) }}
{{ 'a' 'b' "c" }}{{ 'é\n\t\\\'\x41\u00e9\101\q' }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb\n\nc'|indent(2, true) }}|{{ 'a\nb\n\nc'|indent(2, blank=true) }}|{{ 'a\nb'|indent('>') }}
{{ 'foo bar baz qux'|truncate(9) }}{{ 'foo bar baz qux'|truncate(9, true) }}{{ 'foo bar baz qux'|truncate(11, false, '..', 0) }}
{%- macro m(a, b=2, c=a) -%} {{ a }}{{ b }}{{ c }} {%- endmacro -%}{{ m(1) }}{{ m(1, c=4) }}{{ m() }}|{{ m(*[1,2]) }}{{ m(**{'a': 3}) }}
{%- macro m(a) -%} {{ a }}{{ varargs }}{{ kwargs }} {%- endmacro -%}{{ m(1) }}{{ m(1,2,3) }}{{ m(1,c=4) }}
{%- macro m(a) -%}[{{ caller(a) }}]{%- endmacro -%}{% call(x) m(3) %}{{ x + 1 }}{% endcall %}
{% macro a(x) %}{{ b(x) if x > 0 else 'end' }}{% endmacro %}{% macro b(x) %}{{ x }}{{ a(x - 1) }}{% endmacro %}{{ a(3) }}
{% set x %}  block {{ n }} {% endset %}[{{ x }}]{% set y | upper | trim %} abc {% endset %}[{{ y }}]
{% filter upper %}abc {{ s }}{% endfilter %}
{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% generation %}gen{{ n }}{% endgeneration %}
{% raw %}{{ x }} {% if %}{% endraw %}
{# comment #}a{#- c -#} b
{{ strftime_now('%d %b %Y %H:%M:%S %A %j') }}
{{ [x for x in l] }}
{{ messages[0]['content'] }}{{ messages[0].content }}{{ messages[0]['nope'] }}{{ messages[0].nope is defined }}{{ messages[0].get('nope', 'df') }}{{ messages[0].get('nope') }}
{{ messages[9] is defined }}{{ (messages|first).role }}{{ (messages|last)['role'] }}
{{ 'abc'|replace('b', 'X') }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'abc'.replace('', '-') }}{{ 'abc'.find('c') }}{{ 'abc'.index('b') }}{{ 'abcabc'.rfind('b') }}{{ 'abcabc'.count('bc') }}
{{ '-'.join(w) }}{{ ', '.join(['a']) }}{{ 'a-b-c'.partition('-') }}{{ 'a-b-c'.rpartition('-') }}{{ 'abc'.removeprefix('a') }}{{ '7'.zfill(3) }}{{ 'a'.center(4, '*') }}{{ 'ab'.center(5) }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3) }}|
{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ ' '.isspace() }}{{ 'AB'.isupper() }}{{ 'aB'.islower() }}{{ ''.isdigit() }}
{{ (1, 2) }}{{ (1,) }}{{ () }}{{ [1, 'a', none, true, 1.0, {'a': (1,)}] }}{{ ['it\'s', "q\"", '\n\t\\\x00\x7f\xa0é\u2028'] }}{{ [1] + [2] }}{{ (1,) + (2,) }}
{{ [1,2] == [1,2] }}{{ (1,2) == [1,2] }}{{ {'a':1} == {'a':1.0} }}{{ 1 == 1.0 }}{{ 1 == true }}{{ 'a' == 1 }}{{ x == y }}{{ x == none }}{{ [1,2] < [1,3] }}{{ 'a' < 'b' }}
{{ range(3)|list }}{{ range(1, 8, 3)|list }}{{ range(5, 0, -2)|list }}{% for i in range(2) %}{{ i }}{% endfor %}{{ range(10)[3] }}{{ range(3)|length }}
{{ dict(a=1, b=2) }}{{ dict({'x': 1}, y=2) }}{{ {}|length }}{{ {1: 2}[1] }}{{ {true: 2}[1] }}{{ {'a': 1, 'a': 2} }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (a, b) = (b, a) %}{{ a }}{{ b }}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{{ n if t else z }}{{ 'x' if false }}{{ 'x' if false else 'y' if false else 'w' }}
{{ not t }}{{ not x }}{{ x and y }}{{ x or 'y' }}{{ '' or [] or 0 }}{{ 1 and 2 }}
{{ l|batch(2)|list }}{{ l|batch(2, 'f')|list }}{{ l|slice(2)|list }}{{ [{'a':1,'b':2},{'a':1,'b':3},{'a':0,'b':4}]|groupby('a') | length }}{{ 'a b c'|wordcount }}{{ 'a b/c?é'|urlencode }}
{{ x.y }}
{{ none + 1 }}
{{ 'a' < 1 }}
{{ raise_exception('stop ' ~ n) }}
{{ l.append(4) }}
{{ d.update({'a': 1}) }}
{{ 1 / 0 }}
{{ 'abc'.split('') }}
{{ x() }}
{{ l.__class__ }}
{{ l.__class__.__mro__ }}
{{ {[]: 1} }}
{{ range(1000000)|length }}
{{ x|tojson }}
{{ l|map('upper')|length }}
{{ namespace(a=1).b is defined }}
{{ messages | map(attribute='content') | map('trim') | join('|') }}
{{ d.items() }}{{ d.keys() }}{{ d.items()|first }}
{{ loop is defined }}{% for i in l %}{% set o = loop %}{% for j in l %}{{ o.index }}{{ loop.index }} {% endfor %}{% endfor %}
{{ ['a','b']|join(', ', attribute=none) }}{{ [{'x': 1}]|join(',', attribute='x') }}{{ [{'x': {'y': [7]}}]|map(attribute='x.y.0')|first }}
{% for m in messages %}{{ m.role }}{% if not loop.last %}{{ "\n" }}{% endif %}{% endfor %}
{{ 'x'.foo is defined }}{{ 5 .foo is defined }}{{ none.foo is defined }}{{ none['a'] is defined }}
{{ 'a' ~ 1 ~ none ~ 2.0 ~ true ~ x ~ [1] }}
{{ [1,2,3][1:][0] }}{{ 'abc'[1:][0] }}{{ ('a' + 'b')[0] }}{{ (l|sort)[0] }}{{ l|sort|first }}{{ -l[0] }}{{ -l[0]|abs }}{{ (-3)|abs }}
{{ 5 is divisibleby 5 }}{{ 5 is divisibleby(2) }}{{ 'a' is lower }}{{ 'A' is upper }}{{ m is callable }}{{ n is sameas none }}{{ n is gt 3 }}{{ n is ge(5) }}{{ not n is even }}{{ n is not odd }}{{ l is in [[3,1,2]] }}
{{ "a" if n == 5 else "b" }}{{ ("a" if n == 4 else "b") ~ "c" }}{{ d.c.x[1] }}{{ d['c']['x'][0] }}{{ d.get('c').get('x') }}
{{ messages[0].content | replace('\n', '\\n') | trim }}{{ messages[1].tool_calls[0].arguments | tojson | safe }}
{{ messages[1].tool_calls[0]['arguments'].items() | list }}{{ (messages[1].tool_calls | length) > 0 }}
{{ "%.3f" | format(3.14159) }}{{ "%s, %s!" | format("Hello", "W") }}{{ "%(a)s %(b)d" | format(a=1, b=2) }}{{ "%(A)s" % d }}
{% for i in [{'n':1,'c':[{'n':2,'c':[]},{'n':3,'c':[{'n':4,'c':[]}]}]}] recursive %}<{{ i.n }}{{ loop.depth }}{{ loop.index }}{% if i.c %}{{ loop(i.c) }}{% endif %}>{% endfor %}
{% for i in [3, 1] recursive %}{{ i }}{{ loop([]) }}{% else %}none{% endfor %}{% for k in l if k > 1 recursive %}{{ k }}{{ loop([0, k - 1]) if k > 2 }}{% endfor %}
{% for g in [{'a':1,'b':2},{'a':1,'b':3},{'a':0,'b':4}]|groupby('a') %}{{ g.grouper }}:{{ g.list|map(attribute='b')|join(',') }}{{ g[0] }};{% endfor %}
{% macro m(a, b=1) %}{{ varargs }}{% endmacro %}{{ m.name }}{{ m.arguments }}{{ m.catch_varargs }}{{ m.catch_kwargs }}{{ m.caller }}{{ m.nope is defined }}
{{ 'abcabc'.find('b', 2) }}{{ 'abcabc'.find('b', 1, 2) }}{{ 'abcabc'.rfind('b', 0, -2) }}{{ 'aéb'.index('b', -2) }}{{ 'abc'.find('', 4) }}{{ 'abc'.find('', 3) }}{{ 'abc'.find('c', none, 2) }}
{{ 'abcabc'.count('b', 2) }}{{ 'abc'.startswith('b', 1) }}{{ 'abc'.endswith('b', 0, 2) }}{{ 'abc'.endswith(('x', 'c'), -1) }}{{ 'abc'.startswith('', 4) }}{{ 'abc'.isascii() }}{{ 'é'.isascii() }}{{ ''.isascii() }}
{{ d[1:] }}
{{ z[:1] }}
{{ l['a':] }}
{% filter length %}abc{% endfilter %}
{% set c | length %}abc{% endset %}{{ c + 1 }}
{{ '{} {0}'.format(1) }}
{{ '{0} {}'.format(1) }}
{% for loop in l %}{% endfor %}
{% for i in l %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
'''.strip("\n").split("\n")

# White space and line breaks around tags.
LAYOUTS = [
    'a\n  {% if t %}\n  b\n  {% endif %}\nc\n',
    '  {%- if t -%}  \n x \n {%- endif -%}  \n y',
    '\n\n{%- set x = 1 %}\n\n{{ x }}\n\n',
    '{% if t %}\n\n{{ n }}\n{%+ if t %} a {%- endif %}{% endif +%}\n b',
    'a  {{- n -}}  b',
    'a {# c #}\n b {#- d #}\n c\n  {# e #}\n f',
    '  {% if t %} x {% endif %}  {% if t %}y{% endif %}\n',
    '{% raw -%}  a {{ x }} {%- endraw %}\n b',
    '\r\na\r\nb{{ n }}\r\n{% if t %}\r\nc{% endif %}\r\n',
    'x\n\n',
    "{{ {'a': {'b': 1}}['a']['b'] }}}}",
    'a{%if t%}b{%endif%}c{{n}}',
    '{{ \'}}\' }}{{ "{%" }}{% set a = \'%}\' %}{{ a }}',
    "{%- for m in messages %}\n    {%- if m.role == 'user' %}\n        {{- '<u>' + m.content }}\n    {%- endif %}\n{%- endfor %}\n",
    '\t {% if t %}a{% endif %}\n \t{{ n }}',
    '{{ n }}\n{{ n }}',
    '{% if t -%}\n\n  a\n{%- endif %}',
    '{#\n multi\n#}\n{{n}}',
    "{{\n n\n}}\n\n{{ 'a\nb' }}",
    '{%- if t %}  x{% endif -%}',
    'a {%+ if t %}b{% endif %}',
    "{{ '''a''' }}",
]
