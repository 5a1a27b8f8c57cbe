#!/usr/bin/env python3
"""Fails on phrases that the style of this repository excludes: see "Style" in CONTRIBUTING.md.

Checks prose: Markdown without its code, the comments of Rust files, and the messages in Rust files that are not tests
(string literals of four words or more). Text in backticks or quotes is not checked. `make lint` runs this check.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The start of a sentence that is not a question, for words that are fine elsewhere.
START = r"(?:^|(?<=[.;:!?] ))(?-i:{})\b(?![^.;!?]*\?)"

# Each pattern ignores case, and is found across the end of a line. A pattern must be right whenever it is found:
# one that needs an exception for correct English does not belong here.
PHRASES = {
    "who …": (START.format("Who"), "a client that …"),
    "what is …": (START.format("What (?:is|are|was|were|has|had|can|cannot)"), "a noun"),
    "whoever": (r"\bwhoever\b", "a client that …"),
    "those who": (r"\bthose who\b", "clients that …"),
    "nobody": (r"\b(?:no|every|some|any)body\b", "no client, all subscribers, a connection that …"),
    "is no X": (r"(?<!\bthere )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b)", "is not a …"),
    "told": (r"\btold\b(?! apart)", "notified, reported, received"),
    "said": (r"\bsaid\b", "reported"),
    "heard": (r"\bheard\b", "received"),
    "asked": (r"\basked\b", "requested"),
    "speaks": (r"\b(?:speaks?|spoken?)\b", "uses"),
    "believe": (r"\bbeliev(?:e|es|ed|ing)\b", "trust"),
    "mend": (r"\bmend(?:s|ed|ing)?\b", "fix"),
    "let go": (r"\blet(?:s|ting)? go\b", "drop, release, close"),
    "go on": (r"\b(?:go|goes|went|going|gone) on\b", "continue, resume"),
    "come again": (r"\b(?:comes?|came|coming) again\b", "retry, reconnect"),
    "anew": (r"\banew\b", "again"),
    "see the module": (r"\bsee the module\b", "the sentences that the reader needs"),
    "says": (r"\bsays\b", "states, contains, reports, describes"),
    "hears": (r"\bhears?\b", "receives"),
    "tells": (r"\btell(?:s|ing)?\b(?! apart)", "notifies, reports, distinguishes"),
    "news": (r"\bnews\b", "updates, new messages"),
    "strangers": (r"\bstrangers?\b", "unauthenticated clients"),
    "lies": (r"\bl(?:ies|ay)\b", "is, is stored"),
    "rests on": (r"\brest(?:s|ed)? on\b", "depends on, is based on"),
    "comes back": (r"\b(?:comes?|came|coming) back\b", "reconnects, restarts, recovers"),
    "is away": (r"\b(?:is|are|was|were) away\b", "is unreachable, is unavailable"),
    "nothing of it": (r"\bnothing of (?:it|them)\b", "no part of it, none of its …"),
    "is fed": (r"\b(?:is|are|was|were) fed\b", "receives … from"),
}


def prose(path):
    """Yields the lines of a file as pairs of number and text; a line without prose is empty."""
    fenced = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if path.suffix == ".rs":
            comment = re.match(r"\s*//[/!]?(.*)", line) or re.search(r"[;,{})]\s+// (.*)", line)
            line = comment.group(1) if comment else ""
        if re.match(r"\s*(?:```|~~~)", line):
            fenced = not fenced
            line = ""
        yield number, "" if fenced else line


def paragraphs(path):
    """Yields the number of the first line and the text of each paragraph, item of a list, and row of a table."""
    start, lines = 0, []
    for number, line in [*prose(path), (0, "")]:
        bullet = re.match(r"\s*(?:[-*>|]|#+|\d+\.)\s", line)
        if lines and (bullet or not line.strip()):
            yield start, "\n".join(lines)
            lines = []
        if line.strip():
            start = start if lines else number
            lines.append((line[bullet.end() :] if bullet else line).strip())


def messages(path):
    """Yields the number of the line and the text of each message in a file: help, errors, lines of the log."""
    if path.suffix != ".rs" or re.search(r"/(?:tests|bench)(?:/|\.rs$)", f"/{path.relative_to(ROOT)}"):
        return
    code = re.split(r"#\[cfg\(test\)\]\s*mod tests \{", path.read_text())[0]
    blank = lambda match: re.sub(r"[^\n]", " ", match.group())
    code = re.sub(r"(?m)^\s*//.*$|(?<=\s)// .*$|b?'(?:\\.|[^\\'])'", blank, code)
    code = re.sub(r'(?s)\br(#+)".*?"\1', blank, code)
    for match in re.finditer(r'(?s)"((?:[^"\\]|\\.)*)"', code):
        text = re.sub(r"\\\n\s*", "", match.group(1))
        if text.count(" ") >= 3:
            yield code[: match.start()].count("\n") + 1, text.replace("\n", " ")


def hits(file):
    """Yields the line, the phrase and the text of each hit in a file."""
    for start, text in [*paragraphs(ROOT / file), *messages(ROOT / file)]:
        code = r"``[^`]+``|`[^`]*`|“[^”]*”|\"[^\"]*\""
        text = re.sub(code, lambda match: re.sub(r"\S", "·", match.group()), text)
        flat = text.replace("\n", " ")
        for phrase, (pattern, _) in PHRASES.items():
            for match in re.finditer(pattern, flat, re.IGNORECASE):
                yield start + text[: match.start()].count("\n"), phrase, flat[match.start() : match.end() + 20]


def main():
    files = subprocess.check_output(["git", "ls-files", "*.md", "*.rs"], cwd=ROOT, text=True).split()
    failed = False
    for file in files:
        for line, phrase, text in hits(file):
            failed = True
            print(f'{file}:{line}: "{text}…" ({phrase}); write: {PHRASES[phrase][1]}', file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
