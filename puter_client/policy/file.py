"""Reads a policy file, with every problem in it."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import NAMESPACE, shown
from puter_client.policy.names import DEFAULT_PROFILE, PROFILES
from puter_client.policy.policy import EVERYONE, Policy
from puter_client.policy.rules import BY_NAME

POLICY_VARIABLE = "PUTER_POLICY"
TOP = "namespaces"
_MOST_BYTES = 1_000_000
_KEY = re.compile(r"""\s*(?:"([^"\\]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*=""")


def read_policy(path: Path, *, named: str | None = None) -> Policy:
    """The policy in a file; `named`: how errors call the file.

    Raises:
        InvalidInput: it cannot be read, or with every problem in it, as `file: line: table: rule: problem`.
    """
    name = named or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{name}: cannot be read: {error.strerror}") from None
    if len(raw) > _MOST_BYTES:
        raise InvalidInput(f"{name}: has over {_MOST_BYTES:,} bytes, which no policy needs")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput(f"{name}: is not valid UTF-8: save it as UTF-8") from None
    return parse_policy(text, named=name)


def parse_policy(text: str, *, named: str = "policy.toml") -> Policy:
    """The policy that a text says; `named`: how errors call it.

    Raises:
        InvalidInput: with every problem in it.
    """
    try:
        written = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        why = "is nested too deeply" if isinstance(error, RecursionError) else f"is not valid TOML: {shown(error, 120)}"
        raise InvalidInput(f"{named}: {why}") from None
    tables: dict[str, dict[str, Any]] = {}
    lines = _lines(text)
    found: list[tuple[int, str]] = []
    for path, problem in _read(written, tables):
        line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 0)
        found.append((line, f"{named}: line {line}: {problem}" if line else f"{named}: {problem}"))
    if found:
        raise InvalidInput(*(problem for _, problem in sorted(found, key=lambda one: one[0])))
    return Policy(tables)


Place = tuple[str, ...]


def _read(written: Mapping[str, Any], tables: dict[str, dict[str, Any]]) -> Iterator[tuple[Place, str]]:
    """Fills in the tables; yields each problem with the place in the file that it is about."""
    for key in written:
        if key != TOP:
            hint = f"rules stand in tables like [{TOP}.team-a]" if key in BY_NAME else _did_you_mean(key, [TOP])
            yield (key,), f"{shown(key)}: unknown; {hint}"
    namespaces = written.get(TOP)
    if not isinstance(namespaces, dict) or not namespaces:
        yield (TOP,), f'there is no table: write [{TOP}."*"], or [{TOP}.NAME] for each namespace'
        return
    for name, rules in namespaces.items():
        place = (TOP, name)
        label = f'[{TOP}."*"]' if name == EVERYONE else f"[{TOP}.{name}]"
        if name != EVERYONE and not NAMESPACE.fullmatch(name):
            remedy = "use 1 to 39 lower-case letters, digits and '-', not beginning with '-', or \"*\""
            yield place, f"{shown(name)}: is not the name of a namespace: {remedy}"
        elif not isinstance(rules, dict):
            yield place, f"{shown(name)}: write a table, {label}"
        else:
            tables[name] = {}
            for rule, value in rules.items():
                for problem in _read_rule(rule, value, tables[name]):
                    yield (*place, rule), f"{label} {problem}"
    yield from _defaults(tables)


def _read_rule(rule: str, value: Any, into: dict[str, Any]) -> Iterator[str]:
    if rule not in BY_NAME:
        yield f"{shown(rule)}: unknown rule; {_did_you_mean(rule, list(BY_NAME))}"
        return
    try:
        into[rule] = BY_NAME[rule].kind.read(value)
    except ValueError as error:
        yield f"{rule}: {error}"


def _defaults(tables: dict[str, dict[str, Any]]) -> Iterator[tuple[Place, str]]:
    """A default profile that a namespace may not use would refuse all its requests."""
    policy = Policy(tables)
    for name, table in tables.items():
        allowed = policy.of(name)
        default = allowed.values[DEFAULT_PROFILE]
        if default is not None and default not in allowed.profiles:
            at = name if DEFAULT_PROFILE in table else EVERYONE
            label = f'[{TOP}."*"]' if name == EVERYONE else f"[{TOP}.{name}]"
            named = ", ".join(allowed.profiles) or "none"
            yield (
                (TOP, at, DEFAULT_PROFILE),
                (f"{label} {DEFAULT_PROFILE}: {shown(default)} is not among its {PROFILES} ({named})"),
            )


def _did_you_mean(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _lines(text: str) -> dict[Place, int]:
    """Where tables and keys stand, as far as they are written on lines of their own; the first line is 1."""
    found: dict[Place, int] = {}
    table: Place = ()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            opened = _table(line)
            if opened is not None:
                table = opened
                for depth in range(1, len(table) + 1):
                    found.setdefault(table[:depth], number)
        elif key := _KEY.match(line):
            name = next(group for group in key.groups() if group is not None)
            found.setdefault((*table, name), number)
    return found


def _table(line: str) -> Place | None:
    """The path of the table that a line opens; None: it opens none, such as a line of a list."""
    try:
        level: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return None
    path: list[str] = []
    while isinstance(level, dict) and len(level) == 1:
        path.append(next(iter(level)))
        level = level[path[-1]]
    return tuple(path)
