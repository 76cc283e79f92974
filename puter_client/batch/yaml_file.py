"""YAML batch files: `namespace`, `max_parallel`, `max_fails`, `defaults` and `puters`.

A puter is a tag, or fields and perhaps a matrix.
"""

from __future__ import annotations

from typing import Any

from puter_client.batch.levels import KNOWN, MAPPINGS, TAG
from puter_client.batch.model import MAX_ENTRIES, Level, Row, Sheet, Written
from puter_client.batch.problems import Problems, safe_name, unknown
from puter_client.batch.template import NAME
from puter_client.batch.yaml_nodes import Mapping, Node, Scalar, Sequence, compose
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import check_namespace, shown

_TOP = ("namespace", "max_parallel", "max_fails", "defaults", "puters")
_FORM = "write puters: with a list of tags or entries below it"


def read_yaml(text: str, problems: Problems) -> Sheet:
    """The sheet of a YAML text; every scalar is the text that is written."""
    root = compose(text, problems)
    if problems and root is None:
        return Sheet(None, {}, [])
    if root is None or (isinstance(root, Scalar) and root.empty):
        problems.add(f"is empty: {_FORM}")
        return Sheet(None, {}, [])
    if not isinstance(root, Mapping):
        problems.add(f"is {_kind(root)} at the top: {_FORM}", line=root.line)
        return Sheet(None, {}, [])
    for name, (line, _) in root.items.items():
        if name not in _TOP:
            problems.add(_about_top(name), line=line, field=safe_name(name).strip("'"))
    namespace = _namespace(root, problems)
    parallel, fails = _limit(root, "max_parallel", problems), _limit(root, "max_fails", problems)
    return Sheet(namespace, _defaults(root, problems), _rows(root, problems), parallel, fails)


def _about_top(name: str) -> str:
    return "belongs under defaults or in an entry of puters" if name in {*KNOWN, "matrix"} else unknown(name, _TOP)


def _namespace(root: Mapping, problems: Problems) -> str | None:
    if "namespace" not in root.items:
        return None
    line, node = root.items["namespace"]
    try:
        if not isinstance(node, Scalar):
            raise InvalidInput("is not a text: write one name")
        if node.empty:
            raise InvalidInput("is empty: leave it out, or write a name")
        return check_namespace(node.text)
    except InvalidInput as error:
        problems.add(error.message, line=line, field="namespace")
        return None


def _limit(root: Mapping, name: str, problems: Problems) -> int | None:
    if name not in root.items:
        return None
    line, node = root.items[name]
    text = node.text if isinstance(node, Scalar) else ""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_ENTRIES:
        problems.add(f"{shown(text)}: write a whole number from 1 to {MAX_ENTRIES}", line=line, field=name)
        return None
    return int(text)


def _defaults(root: Mapping, problems: Problems) -> Level:
    line, node = root.items.get("defaults", (0, None))
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        problems.add(f"is {_kind(node)}: write fields with values below it", line=line, field="defaults")
        return {}
    return _level(node, "defaults.")


def _rows(root: Mapping, problems: Problems) -> list[Row]:
    if "puters" not in root.items:
        problems.add(f"has no puters: {_FORM}")
        return []
    line, node = root.items["puters"]
    if not isinstance(node, Sequence) or not node.items:
        what = "is an empty list" if isinstance(node, Sequence) else f"is {_kind(node)}"
        problems.add(f"{what}: write a list of tags or entries", line=line, field="puters")
        return []
    rows = (_row(index, item, problems) for index, item in enumerate(node.items))
    return [row for row in rows if row is not None]


def _row(index: int, node: Node, problems: Problems) -> Row | None:
    label = f"puters[{index}]."
    if isinstance(node, Scalar) and not node.empty:
        return Row(node.line, label, {TAG: Written(node.text, node.line, label)})
    if not isinstance(node, Mapping):
        problems.add(f"is {_kind(node)}: write a tag, or fields with values", line=node.line, label=label)
        return None
    fields = _level(node, label)
    if "matrix" not in fields:
        return Row(node.line, label, fields)
    del fields["matrix"]
    matrix = _matrix(*node.items["matrix"], label, problems)
    return Row(node.line, label, fields, matrix) if matrix else None


def _matrix(line: int, node: Node, label: str, problems: Problems) -> dict[str, tuple[str, ...]] | None:
    if not isinstance(node, Mapping) or not node.items:
        problems.add("write names with lists of values, like lr: [0.1, 0.2]", line=line, label=label, field="matrix")
        return None
    matrix: dict[str, tuple[str, ...]] = {}
    for name, (at, values) in node.items.items():
        if not NAME.fullmatch(name):
            message = f"{safe_name(name)}: name it with letters, digits and _"
            problems.add(message, line=at, label=label, field="matrix")
        elif not isinstance(values, Sequence) or not values.items:
            problems.add("write a list of values, like [0.1, 0.2]", line=at, label=label, field=f"matrix.{name}")
        else:
            texts = [value.text for value in values.items if isinstance(value, Scalar)]
            if len(texts) < len(values.items):
                problems.add("contains a list or mapping: write texts", line=at, label=label, field=f"matrix.{name}")
            matrix[name] = tuple(texts)
    return matrix if matrix.keys() == node.items.keys() else None


def _level(node: Mapping, label: str) -> Level:
    return {name: Written(_value(name, item), line, label) for name, (line, item) in node.items.items()}


def _value(name: str, node: Node) -> Any:
    """The value for the field's reader: a text, or one level of texts; anything deeper keeps its kind only."""
    if isinstance(node, Scalar):
        # A null is "empty" in a field that is one text, and its own text in a list or mapping.
        return "" if node.empty and name != TAG else node.text
    if isinstance(node, Sequence):
        return [_inner(item) for item in node.items]
    if name in MAPPINGS:
        return {key: _inner(item) for key, (_, item) in node.items.items()}
    return {}


def _inner(node: Node) -> Any:
    return node.text if isinstance(node, Scalar) else [] if isinstance(node, Sequence) else {}


def _kind(node: Node) -> str:
    if isinstance(node, Scalar):
        return "empty" if node.empty else "a text"
    return "a list" if isinstance(node, Sequence) else "a mapping"
