"""The lines about one key in the JSON logs of the state folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from puter_client.cli.terminal import plain
from puter_client.contract.record import Event
from puter_client.view import View

MOST_OF_A_LIST = 5  # the line of a batch may name a hundred tags
# Shown at the beginning of a line, or not at all.
_HEAD = ("timestamp", "level", "event", "logger", "namespace", "tag", "job_id", "pid")


def lines_of(folder: Path, view: View, events: Sequence[Event]) -> list[str]:
    """Lines of `client.jsonl` and `worker.jsonl`, also rotated ones, in order of time and safe to print.

    A line is about the key if it has its namespace and tag, or the id of its instance, launch, call or batch.
    """
    ids = _ids(view, events)
    needles = [text.encode() for text in (view.tag, *ids)]
    found: list[tuple[str, str]] = []
    for path in _files(folder):
        try:
            with path.open("rb") as file:
                for raw in file:
                    if any(needle in raw for needle in needles):
                        found += _told(raw, view, ids)
        except OSError:
            continue  # the file was rotated away meanwhile
    return [text for _, text in sorted(found, key=lambda item: item[0])]


def _files(folder: Path) -> Iterator[Path]:
    for name in ("client.jsonl", "worker.jsonl"):
        yield from sorted(folder.glob(f"{name}*"), reverse=True)


def _ids(view: View, events: Sequence[Event]) -> set[str]:
    record = view.record
    named = {event.request_id for event in events}
    named |= {event.detail.get(name) for event in events for name in ("intent", "instance", "batch")}
    if record is not None:
        named |= {record.instance_id, record.intent, record.batch_id, record.error.request_id if record.error else None}
    return {text for text in named if text}


def _told(raw: bytes, view: View, ids: set[str]) -> list[tuple[str, str]]:
    try:
        fields = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    if not _speaks_of(fields, view, ids):
        return []
    at, level, event = (plain(fields.get(name, "")) for name in ("timestamp", "level", "event"))
    rest = "  ".join(f"{plain(name)}={_value(value)}" for name, value in fields.items() if name not in _HEAD)
    return [(at, f"{at}  {level:<7}  {event}  {rest}".rstrip())]


def _speaks_of(fields: Mapping[str, Any], view: View, ids: set[str]) -> bool:
    if fields.get("job_id") == f"{view.namespace}/{view.tag}":
        return True
    tags = fields.get("tags")
    named = fields.get("tag") == view.tag or (isinstance(tags, list) and view.tag in tags)
    if named and fields.get("namespace", view.namespace) == view.namespace:
        return True
    return any(_is_one_of(value, ids) for value in fields.values())


def _is_one_of(value: Any, ids: set[str]) -> bool:
    if isinstance(value, str):
        return value in ids
    return isinstance(value, list) and any(isinstance(item, str) and item in ids for item in value)


def _value(value: Any) -> str:
    if isinstance(value, list) and len(value) > MOST_OF_A_LIST:
        return f"{_value(value[:MOST_OF_A_LIST])} +{len(value) - MOST_OF_A_LIST:,} more"
    return plain(value if isinstance(value, str) else msgspec.json.encode(value).decode())
