"""Texts with placeholders: `train-{lr}`; `{{` and `}}` are the braces themselves."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import msgspec

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class UnknownPlaceholder(ValueError):
    """Braces that are not a placeholder.

    Attributes:
        piece: the braces with what is in them, which may be part of a secret.
    """

    def __init__(self, piece: str) -> None:
        self.piece = piece
        super().__init__("not a placeholder")


class Template(msgspec.Struct, frozen=True):
    """A text in pieces.

    Attributes:
        pieces: (literal text, name that follows it), the last name None.
    """

    pieces: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str, names: Collection[str]) -> Template:
        """The template of a text in which only `names` are placeholders.

        Raises:
            UnknownPlaceholder: for a lone brace, or a name that is none of them.
        """
        pieces: list[tuple[str, str | None]] = []
        literal, end = "", 0
        for found in _PIECE.finditer(text):
            literal += text[end : found.start()]
            end = found.end()
            if found[0] in {"{{", "}}"}:
                literal += found[0][0]
            elif found[1] in names:
                pieces.append((literal, found[1]))
                literal = ""
            else:
                raise UnknownPlaceholder(found[0])
        return cls((*pieces, (literal + text[end:], None)))

    @property
    def names(self) -> frozenset[str]:
        """The placeholders that it uses."""
        return frozenset(name for _, name in self.pieces if name is not None)

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with each placeholder's value in its place."""
        return "".join(literal + (values[name] if name is not None else "") for literal, name in self.pieces)
