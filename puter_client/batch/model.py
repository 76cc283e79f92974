"""The model of a batch: entries with checked specs, and before that a sheet of rows of written fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from puter_client.contract.spec import Spec

MAX_ENTRIES = 100_000
MAX_FILE_BYTES = 64 * 1024 * 1024
# The deepest a batch file goes is 6 (file, puters, entry, matrix, values, value); the rest is room for mistakes
# that deserve a better message than "too deep".
MAX_DEPTH = 16

# From the words of one ssh_from, "auto" and CIDRs, to CIDRs; () means that no ssh_from is written.
ResolveSshFrom = Callable[[tuple[str, ...]], tuple[str, ...]]
# A path as written in a batch file to the content of that file.
ReadFile = Callable[[str], bytes]


# The labels of fields that no file wrote: of options, and of config.toml.
OPTION = "--"
CONFIG = "config.toml: defaults."


class Format(StrEnum):
    """How a batch file is written."""

    YAML = "yaml"
    JSONL = "jsonl"
    CSV = "csv"


class Entry(msgspec.Struct, frozen=True):
    """One puter of a batch.

    Attributes:
        tag: its tag, checked.
        spec: what is requested, checked.
        where: where it was written: `batch.yaml:12`, or `--tag` if it was generated.
        given: names of the fields that are written in the file or as options, but not those of config.toml.
    """

    tag: str
    spec: Spec
    where: str
    given: frozenset[str] = frozenset()


class Batch(msgspec.Struct, frozen=True):
    """What a batch file asks for.

    Attributes:
        namespace: as the file names it; None leaves it to options and settings.
        entries: in the file's order; no two have the same tag.
        max_parallel: at most so many machines of it live at a time; None leaves it to options.
        max_fails: as soon as so many of it have failed, the rest is cancelled and stopped; None leaves it to options.
    """

    namespace: str | None
    entries: tuple[Entry, ...]
    max_parallel: int | None = None
    max_fails: int | None = None


class Written(msgspec.Struct, frozen=True):
    """A value as somebody wrote it, and where.

    Attributes:
        value: a text, a flag, a list or mapping of texts; the field's reader says what it means.
        line: of the file, from 1; None: an option of the command or config.toml wrote it.
        label: the prefix of the field's name in messages: `puters[3].`, `defaults.`, OPTION, CONFIG.
    """

    value: Any
    line: int | None
    label: str = ""

    def __repr__(self) -> str:
        # env, run and user data may carry secrets.
        return f"Written(line={self.line!r}, label={self.label!r})"


Level = dict[str, Written]


class Row(msgspec.Struct, frozen=True):
    """One entry as written; only its shape is checked yet.

    Attributes:
        line: the line it begins on; None for a generated entry.
        label: the prefix of its fields' names in messages.
        fields: by name, the tag among them.
        matrix: names with their values; None: braces in the texts are ordinary characters.
    """

    line: int | None
    label: str
    fields: Level
    matrix: Mapping[str, tuple[str, ...]] | None = None


class Sheet(msgspec.Struct, frozen=True):
    """A batch file as written.

    Attributes:
        namespace: checked.
        defaults: fields for every entry that does not write them.
        rows: the entries.
        max_parallel: checked.
        max_fails: checked.
    """

    namespace: str | None
    defaults: Level
    rows: list[Row]
    max_parallel: int | None = None
    max_fails: int | None = None
