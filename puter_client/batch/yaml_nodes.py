"""YAML as texts with their lines: nothing in it is turned into a number, a date or an object.

The parser's events (libyaml's where PyYAML has it) are put together here rather than by PyYAML's composer, which
recurses, resolves types, lets the last of two equal keys win and knows no bound for aliases.
"""

from __future__ import annotations

from typing import Any

import msgspec

from puter_client.batch.model import MAX_DEPTH
from puter_client.batch.problems import Problems, field_at
from puter_client.contract.key import shown

# The characters that all aliases expand to: far above what people repeat, far below what fills a memory.
MAX_ALIASED_CHARS = 16 * 1024 * 1024
_MEANINGLESS_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str"})
_YAML_TAG_PREFIX = "tag:yaml.org,2002:"
_HINTS = {
    "found a tab character that violates indentation": "indent with spaces",
    "found character that cannot start any token": "indent with spaces, and quote texts that begin with @, ` or %",
    "mapping values are not allowed in this context": "quote texts with ': ' in them, and check the indentation",
    "did not find expected key": "check the indentation, and quote texts with special characters",
}


class Scalar(msgspec.Struct):
    """A text; `plain` if it is written without quotes."""

    text: str
    line: int
    plain: bool

    @property
    def empty(self) -> bool:
        """Whether YAML calls it null."""
        return self.plain and self.text in {"", "~", "null", "Null", "NULL"}


class Sequence(msgspec.Struct):
    """A list."""

    items: list[Node]
    line: int
    size: int = 1


class Mapping(msgspec.Struct):
    """Names with values, and the line of each name."""

    items: dict[str, tuple[int, Node]]
    line: int
    size: int = 1


Node = Scalar | Sequence | Mapping


class Malformed(Exception):
    """The rest of the text cannot be read; the problem is noted."""


def compose(text: str, problems: Problems) -> Node | None:
    """The one document of a YAML text; None if it has none, or if it cannot be read, which is noted."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    composer = _Composer(problems)
    try:
        for event in yaml.parse(text, Loader=loader):
            composer.take(event)
    except Malformed:
        return None
    except yaml.reader.ReaderError as error:
        problems.add(f"contains a character that YAML does not allow: {error.reason}", line=0)
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = _HINTS.get(error.problem or "")
        what = (error.problem or "cannot be read") + (f" ({hint})" if hint else "")
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problems.add(f"is not valid YAML{where}: {what}", line=mark.line + 1 if mark else 0)
        return None
    return composer.root


class _Composer:
    """Puts events together without recursion: `_open` is the path from the root to the parser's position."""

    def __init__(self, problems: Problems) -> None:
        self.root: Node | None = None
        self._problems = problems
        self._open: list[Sequence | Mapping] = []
        self._keys: list[Scalar | None] = []
        self._anchors: dict[str, Node] = {}
        self._names: list[str | None] = []
        self._aliased = 0
        self._take = {
            "ScalarEvent": self._scalar,
            "MappingStartEvent": self._begin,
            "SequenceStartEvent": self._begin,
            "MappingEndEvent": self._end,
            "SequenceEndEvent": self._end,
            "AliasEvent": self._alias,
            "DocumentStartEvent": self._document,
        }

    def take(self, event: Any) -> None:
        """Take the parser's next event.

        Raises:
            Malformed: the rest of the text cannot be read.
        """
        taken = self._take.get(type(event).__name__)
        if taken:
            taken(event)

    def _document(self, event: Any) -> None:
        if self.root is not None:
            self._stop(event, "has a second document: put it into a file of its own")

    def _scalar(self, event: Any) -> None:
        self._check_tag(event)
        if not event.value.isascii() and any("\ud800" <= c <= "\udfff" for c in event.value):
            self._stop(event, "contains an escape of half a character: write the character itself")
        node = Scalar(event.value, event.start_mark.line + 1, not event.style)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._place(node, event)

    def _begin(self, event: Any) -> None:
        self._check_tag(event)
        if len(self._open) == MAX_DEPTH:
            self._stop(event, "is nested too deeply: an entry is a mapping of texts")
        if self._open and isinstance(self._open[-1], Mapping) and self._keys[-1] is None:
            self._stop(event, "a name must be a text, not a list or mapping: quote it if it begins with [ or {")
        line = event.start_mark.line + 1
        self._open.append(Mapping({}, line) if type(event).__name__[0] == "M" else Sequence([], line))
        self._keys.append(None)
        self._names.append(event.anchor)

    def _end(self, event: Any) -> None:
        node = self._open.pop()
        self._keys.pop()
        anchor = self._names.pop()
        if anchor is not None:
            self._anchors[anchor] = node
        self._place(node, event)

    def _alias(self, event: Any) -> None:
        node = self._anchors.get(event.anchor)
        if node is None:
            self._stop(
                event,
                f"*{event.anchor[:40]} has no anchor before it: write &{event.anchor[:40]} there",
            )
        else:
            self._aliased += _size(node)
            if self._aliased > MAX_ALIASED_CHARS:
                self._stop(event, "aliases (*) repeat more than 16 MB of text: write shared fields under defaults")
            self._place(node, event)

    def _place(self, node: Node, event: Any) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if isinstance(parent, Sequence):
            parent.items.append(node)
            parent.size += _size(node)
            return
        key = self._keys[-1]
        if key is None:
            self._name(node, event)
            return
        parent.size += _size(node) + len(key.text)
        if key.text in parent.items:
            self._tell_again(key, parent.items[key.text][0])
        else:
            parent.items[key.text] = (key.line, node)
        self._keys[-1] = None

    def _tell_again(self, key: Scalar, first: int) -> None:
        where = "the same line" if first == key.line else f"line {first}"
        steps = zip(self._open, self._keys, strict=True)
        way = [len(node.items) if name is None else name.text for node, name in steps]
        # `puters[5].` and `defaults.` are labels, as with all fields, so a problem of many entries is one message.
        own = 0 if len(way) == 1 else 2 if isinstance(way[1], int) else 1
        label = field_at(way[:own]) + "." if own else ""
        self._problems.add(
            f"duplicate name, {where} has it too: keep one", line=key.line, label=label, field=field_at(way[own:])
        )

    def _name(self, node: Node, event: Any) -> None:
        if not isinstance(node, Scalar):
            self._stop(event, "a name must be a text")
        elif node.plain and node.text == "<<":
            self._stop(event, "merge keys (<<) are not supported: write shared fields under defaults")
        else:
            # An alias may be the name: then its line is where it is used.
            self._keys[-1] = Scalar(node.text, event.start_mark.line + 1, node.plain)

    def _check_tag(self, event: Any) -> None:
        if event.tag not in _MEANINGLESS_TAGS:
            tag = event.tag
            if tag.startswith(_YAML_TAG_PREFIX):
                tag = "!!" + tag.removeprefix(_YAML_TAG_PREFIX)
            self._stop(event, f"YAML tag {shown(tag)}: remove it; values are taken as they are written")

    def _stop(self, event: Any, message: str) -> None:
        self._problems.add(message, line=event.start_mark.line + 1)
        raise Malformed


def _size(node: Node) -> int:
    return len(node.text) + 1 if isinstance(node, Scalar) else node.size
