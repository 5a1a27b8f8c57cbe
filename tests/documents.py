#!/usr/bin/env python3
"""Fails if README.md is too long, or if a file of this repository refers to a document or heading that does not exist.

Checks relative links, their #anchors and the sources of images in Markdown, and paths such as docs/metrics.md in every
file. Requests nothing from the network.
"""

import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent

# Maximum lines of README.md. It is the first page that a newcomer reads; a manual belongs in docs/.
README_LINES = 150

INLINE = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^\[[^\]]+\]:\s*<?([^\s>]+)", re.MULTILINE)
HTML = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=\"([^\"]+)\"")
# A path to a document in a comment, a string or a configuration. Not a part of a longer path.
MENTION = re.compile(r"(?<![\w./-])docs/[\w/-]+\.md(?:#[\w-]+)?")


def without_code(text):
    """Returns Markdown with its code blanked, with the same number of lines."""
    blank = lambda match: re.sub(r"[^\n]", " ", match.group())
    text = re.sub(r"(?ms)^( *)(```+|~~~+).*?^\1\2\s*$", blank, text)
    return re.sub(r"``[^`\n]+``|`[^`\n]*`", blank, text)


@cache
def anchors(path):
    """Returns the anchors of the headings of a Markdown file, as GitHub makes them."""
    text = path.read_text()
    fenced = re.sub(r"(?ms)^( *)(```+|~~~+).*?^\1\2\s*$", "", text)
    found, seen = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", fenced)), Counter()
    for heading in re.findall(r"(?m)^#{1,6}\s+(.+?)\s*#*$", fenced):
        heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def problem(source, target):
    """Returns the error of a link from a file, or None."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return None
    path, _, anchor = unquote(target).partition("#")
    file = (source.parent / path).resolve() if path else source
    if ROOT not in [file, *file.parents] or not file.exists():
        return "there is no such file"
    if anchor and file.suffix == ".md" and anchor not in anchors(file):
        return "there is no such heading"
    return None


def links(file):
    """Yields the line and the target of each link of a file; the targets are relative to the file."""
    path = ROOT / file
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return
    up = "../" * file.count("/")
    for match in MENTION.finditer(text):
        yield text[: match.start()].count("\n") + 1, up + match.group()
    if path.suffix == ".md":
        text = without_code(text)
        for match in (match for pattern in (INLINE, REFERENCE, HTML) for match in pattern.finditer(text)):
            yield text[: match.start()].count("\n") + 1, match.group(1)


def main():
    failed = False
    lines = len((ROOT / "README.md").read_text().splitlines())
    if lines > README_LINES:
        failed = True
        print(f"README.md: {lines} lines, the maximum is {README_LINES}; move a part to docs/", file=sys.stderr)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for file in subprocess.check_output(listed, cwd=ROOT, text=True).split("\0"):
        if not (ROOT / file).is_file():
            continue
        for line, target in links(file):
            if error := problem(ROOT / file, target):
                failed = True
                print(f"{file}:{line}: {target}: {error}", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
