"""Text from outside as it may be shown: the one place that decides which characters reach a terminal or a message."""

from __future__ import annotations

import re
import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MOST_MARKS = 2  # combining marks on one character; a stack of them would cover the lines above it
# Printable for Python, yet drawn as nothing: Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt, where
# `str.isprintable` lets it pass, and the blank of braille.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def plain(text: object) -> str:
    """A text from outside on one line, safe to print: `printable`, with spaces for line ends, tabs and other blanks."""
    shown = str(text)
    return printable(shown if shown.isprintable() else " ".join(shown.split()))


def printable(text: str) -> str:
    """A text from outside without what a terminal obeys or does not show, character for character.

    Control characters (also those of C1), changes of the direction of writing, lone surrogates, and what is invisible
    become U+FFFD. Accents stand in their letters.
    """
    if text.isascii() and text.isprintable():
        return text
    text = unicodedata.normalize("NFC", "".join(c if c.isprintable() else REPLACEMENT for c in text))
    return _unstacked(_INVISIBLE.sub(REPLACEMENT, text))


def escaped_json(text: str) -> str:
    """A JSON text with the same meaning, with escapes for marks and for what a terminal obeys or does not show."""
    if text.isascii() and "\x7f" not in text:  # JSON itself has no control characters below that
        return text
    return "".join(c if printable(c) == c and not _is_mark(c) else _escape(c) for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _unstacked(text: str) -> str:
    """The text with no more marks on a character than people write."""
    marks, kept = 0, []
    for character in text:
        marks = marks + 1 if _is_mark(character) else 0
        kept.append(character if marks <= MOST_MARKS else REPLACEMENT)
    return "".join(kept)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Me")
