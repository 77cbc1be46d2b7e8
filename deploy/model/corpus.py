#!/usr/bin/env python3
"""Builds the corpus of the bundled model from Debian packages: fetch, extract to plain text, remove
near-duplicates, split by hash, write WORK/text/DOMAIN.{train,heldout}.txt and WORK/text/corpus.json.

Documents inside a file are separated by a NUL byte. Needs only the standard library, numpy, apt-get, dpkg and man-db.
"""
import argparse
import concurrent.futures
import gzip
import hashlib
import html.parser
import json
import os
import pathlib
import re
import subprocess
import zlib

import numpy as np

PACKAGES = {
    "c": ["linux-source-6.1"],
    "scripture": ["bible-kjv", "bible-kjv-text"],
    "man": ["manpages", "manpages-dev", "libssl-doc", "git-man", "coreutils", "util-linux", "bsdutils", "systemd",
            "tar", "findutils", "openssh-client", "rsync", "dpkg-dev", "perl"],
    "german": ["manpages-de", "manpages-de-dev", "debian-reference-de", "debian-faq-de", "installation-guide-amd64",
               "harden-doc", "debian-handbook"],
    "vim": ["vim-runtime"],
    "general": ["linux-source-6.1", "python3.11-doc", "libpython3.11-stdlib", "perl-doc", "postgresql-doc-15",
                "sqlite3-doc", "debian-handbook", "debian-reference-en", "debian-policy", "developers-reference",
                "maint-guide", "debian-faq", "harden-doc", "installation-guide-amd64", "fortunes", "fortunes-min"],
}
KERNEL = ["kernel", "mm", "lib", "fs", "net", "block", "ipc", "security", "crypto"]
HELDOUT_BYTES = 96 * 1024  # per domain
HELDOUT_DOCUMENT = 12 * 1024  # at most this much of one document, so that a held-out text has many
TRAIN_BYTES = {"c": 16e6, "scripture": 8e6, "man": 16e6, "german": 16e6, "vim": 16e6, "general": 80e6}
DOCUMENT_BYTES = 60_000  # longer documents are cut into pieces at line ends; the pieces are split apart only within train


# ---------------------------------------------------------------- fetch

def fetch(work):
    """Downloads and unpacks every package with the distribution's own tools; returns {package: version}."""
    debs, root = work / "debs", work / "x"
    debs.mkdir(parents=True, exist_ok=True)
    versions = {}
    for package in sorted({p for ps in PACKAGES.values() for p in ps}):
        if not list(debs.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", "-q", package], cwd=debs, check=True)
        deb = next(debs.glob(f"{package}_*.deb"))
        versions[package] = subprocess.run(["dpkg-deb", "-f", deb, "Version"], capture_output=True, text=True,
                                           check=True).stdout.strip()
        target = root / package
        if target.exists():
            continue
        subprocess.run(["dpkg", "-x", deb, target], check=True)
        if package == "linux-source-6.1":
            tar = target / "usr/src/linux-source-6.1.tar.xz"
            members = [f"linux-source-6.1/{d}/*" for d in KERNEL + ["Documentation"]]
            subprocess.run(["tar", "-C", target, "-xf", tar, "--wildcards", *members], check=True)
            tar.unlink()
    return versions


# ---------------------------------------------------------------- extraction to text

class Text(html.parser.HTMLParser):
    """The readable text of an HTML page: block elements end a line, <pre> keeps its layout."""
    BLOCK = {"p", "div", "h1", "h2", "h3", "h4", "h5", "li", "dt", "dd", "tr", "table", "ul", "ol", "dl", "pre", "br",
             "section", "blockquote", "title"}
    SKIP = {"script", "style", "head", "nav", "footer", "svg"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.out, self.skip, self.pre = [], 0, 0

    def handle_starttag(self, tag, attrs):
        classes = dict(attrs).get("class") or ""
        if tag in self.SKIP or (tag == "div" and re.search(r"sphinxsidebar|related|navheader|navfooter|toc\b", classes)):
            self.skip += 1
        elif self.skip and tag == "div":
            self.skip += 1
        if tag in self.BLOCK:
            self.out.append("\n")
        self.pre += tag == "pre"

    def handle_endtag(self, tag):
        if self.skip and tag in self.SKIP | {"div"}:
            self.skip -= 1
        if tag in self.BLOCK:
            self.out.append("\n")
        self.pre = max(0, self.pre - (tag == "pre"))

    def handle_data(self, data):
        if not self.skip:
            self.out.append(data if self.pre else re.sub(r"\s+", " ", data))


def from_html(path):
    parser = Text()
    parser.feed(path.read_text("utf-8", "replace"))
    lines = [line.rstrip() for line in "".join(parser.out).replace("\u00b6", "").replace("\u00a0", " ").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.removeprefix(" ") if line[:2] != "  " else line for line in lines))


def plain(path):
    raw = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    return raw.decode("utf-8", "replace")


def manual(path):
    """A manual page as a reader sees it, 80 columns, without the running head and foot."""
    raw = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 400 or raw.startswith(b".so "):
        return ""
    env = dict(os.environ, LC_ALL="C.UTF-8", MANWIDTH="80", GROFF_NO_SGR="1")
    run = subprocess.run(["man", "--no-hyphenation", "--no-justification", "-P", "cat", "-l", str(path)], env=env,
                         capture_output=True)
    lines = re.sub(r".\x08|\x1b\[[0-9;]*m", "", run.stdout.decode("utf-8", "replace")).strip().split("\n")
    text = "\n".join(line.rstrip() for line in lines[1:-1]).strip()
    text = re.split(r"\nÜBERSETZUNG\n", text)[0]  # the translators' notice is the same on every page
    return re.sub(r"\n{3,}", "\n\n", text)


def scripture(root):
    """Chapters of the King James Bible, one verse a line."""
    bible = root / "bible-kjv/usr/bin/bible"
    data = root / "bible-kjv-text/usr/lib"
    run = subprocess.run([bible, "-p", data, "-l9000", "gen1:1-rev22:21"], capture_output=True, text=True, check=True)
    text = "\n".join(line.strip() for line in run.stdout.split("\n"))
    chapters = re.split(r"\n(?=[1-3]? ?[A-Z][A-Za-z ]+ \d+\n)", text)
    return [re.sub(r"\n{2,}", "\n", c.strip()).replace("\n", "\n\n", 1) for c in chapters]


def vim_help(path):
    """Sections of a file of Vim's help."""
    return re.split(r"\n[=-]{78,}\n", plain(path))


def c_source(path):
    """A C file without the notice at its head (the SPDX line stays), dropped if it is mostly a table of numbers."""
    text = plain(path)
    head = re.match(r"((?://[^\n]*\n)?)\s*/\*.*?\*/\s*", text, re.S)
    if head and re.search(r"copyright|licen[cs]e", head.group(0), re.I):
        text = head.group(1) + text[head.end():]
    digits = sum(ch.isdigit() for ch in text)
    return "" if digits > 0.12 * len(text) else text


def fortune(path):
    return plain(path).replace("\x08", "").replace("\t", "    ").replace("\n%\n", "\n\n")


def german(text):
    """True if the text reads as German: its function words outnumber the English ones well."""
    words = re.findall(r"[a-zäöüß]+", text.lower())
    de = sum(w in {"der", "die", "das", "und", "ist", "nicht", "wird", "werden", "mit", "für", "ein", "eine", "zu"} for w in words)
    en = sum(w in {"the", "and", "of", "to", "is", "that", "with", "for", "this", "be", "are", "it"} for w in words)
    return de > 0.06 * len(words) and de > 4 * en


def sources(root):
    """Yields (domain, extractor, paths)."""
    def find(package, pattern):
        return sorted(p for p in (root / package).glob(pattern) if p.is_file() and not p.is_symlink())
    kernel = "linux-source-6.1"
    yield "c", c_source, [p for d in KERNEL for p in find(kernel, f"{kernel}/{d}/**/*.c")]
    yield "man", manual, [p for k in PACKAGES["man"] for p in find(k, "usr/share/man/man[1-8]/*.gz")]
    yield "german", manual, [p for k in ("manpages-de", "manpages-de-dev") for p in find(k, "usr/share/man/de/man*/*.gz")]
    yield "german", from_html, (find("debian-reference-de", "usr/share/debian-reference/*.de.html")
                                + find("debian-faq-de", "usr/share/doc/**/*.html")
                                + find("installation-guide-amd64", "usr/share/doc/*/de/*.html")
                                + find("harden-doc", "usr/share/doc/harden-doc/html/de-DE/*.html")
                                + find("debian-handbook", "usr/share/doc/debian-handbook/html/de-DE/*.html"))
    yield "general", plain, [p for p in find(kernel, f"{kernel}/Documentation/**/*.rst") if "translations" not in p.parts]
    yield "general", from_html, [p for p in find("python3.11-doc", "usr/share/doc/python3.11/html/**/*.html")
                                 if not re.search(r"genindex|search|contents|changelog|py-modindex", p.name)]
    yield "general", from_html, (find("postgresql-doc-15", "usr/share/doc/**/*.html")
                                 + find("sqlite3-doc", "usr/share/doc/**/*.html")
                                 + find("debian-handbook", "usr/share/doc/debian-handbook/html/en-US/*.html")
                                 + find("debian-reference-en", "usr/share/debian-reference/*.en.html")
                                 + find("debian-policy", "usr/share/doc/debian-policy/policy.html/*.html")
                                 + find("developers-reference", "usr/share/doc/developers-reference/*.html")
                                 + find("developers-reference", "usr/share/developers-reference/*.html")
                                 + find("maint-guide", "usr/share/doc/maint-guide/html/*.en.html")
                                 + find("debian-faq", "usr/share/doc/**/*.html")
                                 + find("harden-doc", "usr/share/doc/harden-doc/html/en-US/*.html")
                                 + find("installation-guide-amd64", "usr/share/doc/*/en/*.html"))
    yield "general", plain, find("libpython3.11-stdlib", "usr/lib/python3.11/**/*.py")
    yield "general", plain, [p for p in find("perl-doc", "usr/share/perl/**/*.pod") if not re.search("delta|cn|jp|ko|tw", p.name)]
    yield "general", fortune, [p for k in ("fortunes", "fortunes-min") for p in find(k, "usr/share/games/fortunes/*")
                               if not p.suffix]


def clean(domain, text):
    text = text.replace("\x00", "").replace("\r", "").strip() + "\n"
    if len(text) < 300:
        return []
    foreign = sum(ord(ch) > 127 for ch in text) / len(text)
    if foreign > (0.08 if domain == "german" else 0.03) or "\ufffd" in text or (domain == "german" and not german(text)):
        return []
    return [text]


def pieces(text):
    """Cuts a long document at line ends."""
    while len(text) > DOCUMENT_BYTES:
        cut = text.rfind("\n", 0, DOCUMENT_BYTES) + 1 or DOCUMENT_BYTES
        yield text[:cut]
        text = text[cut:]
    yield text


# ---------------------------------------------------------------- near-duplicates and split

def shingles(text, width=8):
    """Hashes of every run of eight words."""
    words = np.array([zlib.crc32(w.encode()) for w in re.findall(r"\w+", text)] or [0], dtype=np.uint64)
    if len(words) < width:
        return words
    mixed = np.zeros(len(words) - width + 1, dtype=np.uint64)
    for i in range(width):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + words[i:len(words) - width + 1 + i]
    return np.unique(mixed ^ (mixed >> np.uint64(29)))


def without_duplicates(documents):
    """Greedy MinHash: a document whose estimated Jaccard similarity to one kept before is ≥ 0.5 goes."""
    generator = np.random.default_rng(1)
    odd = generator.integers(1, 2**63, 64, dtype=np.uint64) | np.uint64(1)
    kept, signatures, buckets = [], [], {}
    for document in documents:
        s = shingles(document[1])
        signature = np.array([(s * a).min() for a in odd])
        bands = [(i, signature[i:i + 2].tobytes()) for i in range(0, 64, 2)]
        near = {j for b in bands for j in buckets.get(b, ())}
        if any((signatures[j] == signature).mean() >= 0.5 for j in near):
            continue
        for b in bands:
            buckets.setdefault(b, []).append(len(kept))
        kept.append((*document, s))
        signatures.append(signature)
    return kept


def split(documents):
    """Held-out by hash of the content, then drops what overlaps a held-out text from the rest."""
    order = without_duplicates(sorted(documents, key=lambda d: hashlib.sha256(d[1].encode()).digest()))
    heldout, train = {d: [] for d in PACKAGES}, {d: [] for d in PACKAGES}
    sizes, rest = dict.fromkeys(PACKAGES, 0), []
    for domain, text, source, s in order:
        cut = text[:text.rfind("\n", 0, HELDOUT_DOCUMENT) + 1] if len(text) > HELDOUT_DOCUMENT else text
        size = len(cut.encode())
        if sizes[domain] + size <= HELDOUT_BYTES and sizes[domain] < HELDOUT_BYTES - 4096:
            heldout[domain].append((cut, s, source))
            sizes[domain] += size
        else:
            rest.append((domain, text, s))
    held = [s for texts in heldout.values() for _, s, _ in texts]
    union = np.unique(np.concatenate(held))
    dropped = 0
    for domain, text, s in rest:
        shared = s[np.isin(s, union, assume_unique=True)]
        if len(shared) > 0.1 * len(s) or any(np.isin(shared, h).sum() > 0.1 * len(h) for h in held if len(shared) > 0.1 * len(h)):
            dropped += 1
            continue
        train[domain].extend(pieces(text))
    return heldout, train, len(documents) - len(order), dropped


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for packages and texts (about 1 GB)")
    parser.add_argument("--heldout", type=pathlib.Path, help="also write the held-out texts here, without separators, and where they are from")
    args = parser.parse_args()
    versions = fetch(args.work)
    root, out = args.work / "x", args.work / "text"
    out.mkdir(exist_ok=True)
    documents = [("scripture", t, "bible-kjv-text: " + t.split("\n")[0]) for c in scripture(root) for t in clean("scripture", c)]
    for path in sorted((root / "vim-runtime/usr/share/vim/vim90/doc").glob("*.txt")):
        if not re.match("version|todo|os_", path.name):
            documents += [("vim", t, str(path.relative_to(root))) for s in vim_help(path) for t in clean("vim", s)]
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        for domain, extract, paths in sources(root):
            texts = zip(paths, pool.map(extract, paths, chunksize=16))
            documents += [(domain, t, str(path.relative_to(root))) for path, text in texts for t in clean(domain, text)]
            print(domain, extract.__name__, len(paths), flush=True)
    heldout, train, near, overlap = split(documents)
    if args.heldout:
        args.heldout.mkdir(parents=True, exist_ok=True)
        (args.heldout / "SOURCES").write_text("".join(
            f"{domain}\t{source}\n" for domain, texts in heldout.items() for _, _, source in texts))
    report = {"packages": versions, "documents": len(documents), "near_duplicates_removed": near,
              "overlapping_heldout_removed": overlap, "domains": {}}
    for domain in PACKAGES:
        texts, size = [], 0
        for text in train[domain]:  # in hash order, so the cut is a fair sample
            size += len(text.encode())
            if size > TRAIN_BYTES[domain]:
                break
            texts.append(text)
        (out / f"{domain}.train.txt").write_text("\x00".join(texts))
        (out / f"{domain}.heldout.txt").write_text("\x00".join(t for t, *_ in heldout[domain]))
        if args.heldout:
            (args.heldout / f"{domain}.txt").write_text("\n".join(t for t, *_ in heldout[domain]))
        report["domains"][domain] = {"train_documents": len(texts), "train_bytes": sum(len(t.encode()) for t in texts),
                                     "heldout_documents": len(heldout[domain]),
                                     "heldout_bytes": sum(len(t.encode()) for t, *_ in heldout[domain])}
    (out / "corpus.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["domains"], indent=1))


if __name__ == "__main__":
    main()
