"""From a batch file's bytes to its checked entries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from puter_client.batch.build import Builder
from puter_client.batch.levels import TAG, LevelReader, refuse_auto
from puter_client.batch.model import MAX_FILE_BYTES, Batch, Format, ReadFile, ResolveSshFrom, Sheet
from puter_client.batch.problems import Problems
from puter_client.batch.source import STDIN, beside
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown

_SUFFIXES = {
    ".yaml": Format.YAML,
    ".yml": Format.YAML,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
}
_NOT_SHOWN = re.compile(r"[^ -~\u00a1-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Characters that YAML does not allow (YAML 1.1, 5.1) and that no format needs.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")


def read_batch(
    source: str,
    text: bytes,
    *,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    config: Mapping[str, Any] = MappingProxyType({}),
    format: str | None = None,  # noqa: A002 — the option's name
    resolve_ssh_from: ResolveSshFrom = refuse_auto,
    read_file: ReadFile | None = None,
) -> Batch:
    """The checked entries of a batch file: all of them, or an error with every problem.

    A field is what the entry writes, else the option, else the file's default, else config.toml, else what is built
    in; `env` and `aws_tags` are merged name by name in that order.

    Args:
        source: the file's name, for messages, its suffix and the folder of what it names; `-` is standard input.
        text: its content, UTF-8.
        overrides: fields given as options, by their names in contract.fields.FIELDS; None and () are not given.
        config: the [defaults] of the user's config.toml, checked by read_config.
        format: a Format's name; None goes by the suffix, and without one by the content.
        resolve_ssh_from: gives the CIDRs of an ssh_from with "auto" in it, and with () those of an entry without an
            ssh_from; called at most once for each distinct value. Its InvalidInput is reported with the others.
        read_file: reads a `user_data_file`; None reads it beside `source`.

    Raises:
        InvalidInput: with every problem, a line a cause, as `file:line: field: message`.
    """
    name = "stdin" if source == STDIN else _NOT_SHOWN.sub("\N{REPLACEMENT CHARACTER}", source)
    problems = Problems(name)
    sheet = _sheet(source, text, format, problems)
    reader = LevelReader(problems, read_file or beside(source))
    entries = Builder(problems, reader, resolve_ssh_from).entries(sheet, config=config, overrides=overrides)
    problems.raise_if_any()
    if not entries:
        raise InvalidInput(f"{name}: has no puters: write at least one")
    return Batch(sheet.namespace, entries, sheet.max_parallel, sheet.max_fails)


def _sheet(source: str, text: bytes, form: str | None, problems: Problems) -> Sheet:
    decoded = _decoded(text, problems)
    problems.raise_if_any()
    match _format(source, decoded, form):
        case Format.JSONL:
            from puter_client.batch.jsonl_file import read_jsonl

            return read_jsonl(decoded, problems)
        case Format.CSV:
            from puter_client.batch.csv_file import read_csv

            return read_csv(decoded, problems)
        case Format.YAML:
            from puter_client.batch.yaml_file import read_yaml

            return read_yaml(decoded, problems)


def _decoded(text: bytes, problems: Problems) -> str:
    if len(text) > MAX_FILE_BYTES:
        problems.add("is over 64 MiB: split it into several batches")
        return ""
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.add("is not valid UTF-8: save it as UTF-8", line=text.count(b"\n", 0, error.start) + 1)
        return ""
    if not decoded.strip():
        problems.add("is empty: write at least one puter")
    if found := _CONTROL.search(decoded):
        line = decoded.count("\n", 0, found.start()) + 1
        problems.add(f"contains a control character (U+{ord(found[0]):04X}): remove it", line=line)
    return decoded


def _format(source: str, text: str, form: str | None) -> Format:
    if form is not None:
        try:
            return Format(form.lower())
        except ValueError:
            raise InvalidInput(f"format {shown(form)}: write one of {', '.join(Format)}") from None
    suffix = PurePath(source).suffix.lower() if source != STDIN else ""
    if suffix:
        if suffix not in _SUFFIXES:
            raise InvalidInput(f"batch file {shown(source)}: name it .yaml, .jsonl or .csv, or give --format")
        return _SUFFIXES[suffix]
    return recognised(text)


def recognised(text: str) -> Format:
    """The format of a text without a name: an object first is JSONL, a header with a column tag is CSV, else YAML."""
    start = text.lstrip()
    if start.startswith("{"):
        return Format.JSONL
    cells = [cell.strip().strip('"') for cell in start.partition("\n")[0].split(",")]
    return Format.CSV if TAG in cells else Format.YAML
