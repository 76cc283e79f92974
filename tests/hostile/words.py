"""What a hostile user would write where a text is taken: pieces that mean something to a shell, YAML or MIME."""

from __future__ import annotations

import random
from collections.abc import Sequence

WORDS = (
    "\n", "\n\n", "\r\n", "\r", "\t", " ", "'", '"', "\\", "$(id)", "`id`", "$HOME", ";", "&&", "|", "%s", "{{ x }}",
    "{%", "From x\n", ".\n", "=3D", "=\n", "ü", "€", "\x01", "\x0b", "\x0c", "\x1c", "\x7f", "\x85", "\u2028", "\ufeff",
    "\U0001f600", "--b\n", "--b--\n", "\n--b\n", "\n--c\n", "\n--==\n", "--\n",
    "\n--puter-0123456789abcdef0123456789abcdef\n", "Launch-Index: 0\n", "Launch-Index: 1\n", "MIME-Version: 1.0\n",
    "Content-Transfer-Encoding: base64\n", "Content-Transfer-Encoding: x-uuencode\n", "Content-Type: text/plain\n",
    "Content-Type: text/part-handler\n\n", "Content-Type: text/cloud-boothook\n\n",
    "Content-Type: application/gzip\n\n", "Content-Type: text/x-include-url\n\n", "Content-Type: message/rfc822\n\n",
    'Content-Type: multipart/mixed; boundary="b"\n\n', 'Content-Type: multipart/mixed; boundary="c"\n\n',
    'Content-Disposition: attachment; filename="000-puter-4-task"\n', "#!/bin/sh\n", "#include file:///etc/passwd\n",
    "#include-once\n", "#cloud-config\n", "#cloud-config-archive\n", "#cloud-config-jsonp\n", "#cloud-boothook\n",
    "#part-handler\n", "## template: jinja\n", "launch-index: 1\n", "a: b\n", "- x\n", "&a\n", "*a\n", "x" * 3_000,
    "H4sIAAAAAAAAA1NUBACJ0ewvAgAAAA==\n",
)  # fmt: skip


def text(dice: random.Random, most: int, words: Sequence[str] = WORDS) -> str:
    """Up to `most` of the words."""
    return "".join(dice.choices(words, k=dice.randint(0, most)))
