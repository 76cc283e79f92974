"""Machines without a file: the one of `up`, and the numbered tags of `submit --tag`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from puter_client.batch.build import Builder
from puter_client.batch.levels import TAG, LevelReader, refuse_auto
from puter_client.batch.model import MAX_ENTRIES, OPTION, Batch, ResolveSshFrom, Row, Sheet, Written
from puter_client.batch.problems import Problems
from puter_client.batch.source import STDIN, beside
from puter_client.contract.errors import InvalidInput
from puter_client.contract.spec import Spec


def generate(
    tag_template: str,
    count: int,
    fields: Mapping[str, Any],
    *,
    config: Mapping[str, Any] = MappingProxyType({}),
    resolve_ssh_from: ResolveSshFrom = refuse_auto,
) -> Batch:
    """The batch of `--tag 'sweep-{i}' --count 100 --run 'x {i}'`.

    `{i}` counts from 0 to count-1 in the tag, `run` and the values of `env`; `{{` and `}}` are the braces
    themselves.

    Args:
        tag_template: with `{i}` in it if count is more than 1.
        count: how many, 1 to MAX_ENTRIES.
        fields: given as options, by their names in contract.fields.FIELDS; None and () are not given.
        config: see read_batch.
        resolve_ssh_from: see read_batch.

    Raises:
        InvalidInput: with every problem.
    """
    if not 1 <= count <= MAX_ENTRIES:
        raise InvalidInput(f"--count {count}: write 1 to {MAX_ENTRIES:,}")
    problems = Problems("options")
    row = Row(None, OPTION, {TAG: Written(tag_template, None, OPTION)}, {"i": tuple(map(str, range(count)))})
    builder = Builder(problems, LevelReader(problems, beside(STDIN)), resolve_ssh_from)
    entries = builder.entries(Sheet(None, {}, [row]), config=config, overrides=fields)
    problems.raise_if_any()
    return Batch(None, entries)


def single(
    fields: Mapping[str, Any],
    *,
    config: Mapping[str, Any] = MappingProxyType({}),
    resolve_ssh_from: ResolveSshFrom = refuse_auto,
) -> Spec:
    """The spec of one machine that is described by options alone; braces in them are ordinary characters.

    Args:
        fields: given as options, by their names in contract.fields.FIELDS; None and () are not given.
        config: see read_batch.
        resolve_ssh_from: see read_batch.

    Raises:
        InvalidInput: with every problem.
    """
    problems = Problems("options")
    builder = Builder(problems, LevelReader(problems, beside(STDIN)), resolve_ssh_from)
    spec = builder.one(config=config, overrides=fields)
    if spec is None or problems:
        raise problems.error()
    return spec
