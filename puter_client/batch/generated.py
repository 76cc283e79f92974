"""Batches without a file: one tag with a number in it, so many times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puter_client.batch.build import Builder
from puter_client.batch.levels import TAG, LevelReader, SshSources, refuse_auto
from puter_client.batch.model import MAX_ENTRIES, Batch, ResolveSshFrom, Row, Sheet, Written
from puter_client.batch.problems import Problems
from puter_client.batch.source import STDIN, beside
from puter_client.contract.errors import InvalidInput


def generate(
    tag_template: str,
    count: int,
    fields: Mapping[str, Any],
    *,
    resolve_ssh_from: ResolveSshFrom = refuse_auto,
) -> Batch:
    """The batch of `--tag 'sweep-{i}' --count 100 --run 'x {i}'`.

    `{i}` counts from 0 to count-1 in the tag, `run` and the values of `env`; `{{` and `}}` are the braces
    themselves.

    Args:
        tag_template: with `{i}` in it if count is more than 1.
        count: how many, 1 to MAX_ENTRIES.
        fields: given as options, by their names in contract.fields.FIELDS; None and () are not given.
        resolve_ssh_from: as read_batch has it.

    Raises:
        InvalidInput: with everything that cannot be used.
    """
    if not 1 <= count <= MAX_ENTRIES:
        raise InvalidInput(f"--count {count}: write 1 to {MAX_ENTRIES:,}")
    problems = Problems("options")
    row = Row(None, "--", {TAG: Written(tag_template, None, "--")}, {"i": tuple(map(str, range(count)))})
    builder = Builder(problems, LevelReader(problems, beside(STDIN)), SshSources(resolve_ssh_from))
    entries = builder.entries(Sheet(None, {}, [row]), fields)
    problems.raise_if_any()
    return Batch(None, entries)
