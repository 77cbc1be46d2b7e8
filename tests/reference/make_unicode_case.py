#!/usr/bin/env python3
"""Writes router/chat/unicode_case.inc: the characters whose upper, title or lower case is several characters, as Python has
them (Unicode's SpecialCasing.txt, what holds in every language). All others are utf8proc's."""

import argparse
import pathlib


def row(c):
    texts = ", ".join('"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"' for text in (c.upper(), c.title(), c.lower()))
    return f"    {{0x{ord(c):04X}, {texts}}},\n"


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=root / "router/chat/unicode_case.inc")
    arguments = parser.parse_args()
    every = (chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF)
    special = [c for c in every if max(len(c.upper()), len(c.title()), len(c.lower())) > 1]
    head = "// Written by tests/reference/make_unicode_case.py: code point, upper, title, lower.\n"
    arguments.out.write_text(head + "".join(row(c) for c in special))


if __name__ == "__main__":
    main()
