"""The report that helps to find out why a run failed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from puter_client.contract.key import PuterKey
from puter_client.contract.record import Event
from puter_client.store import names as public
from puter_worker.ec2.tags import INTENT
from puter_worker.store import names
from tests.chaos.finding import Finding
from tests.chaos.plan import MUTATING
from tests.chaos.verdict import TARGET, read_records
from tests.ec2sim.ledger import Entry
from tests.ec2sim.reports import Seen

MOST_KEYS = 5
MOST_FINDINGS = 40


def report(
    client: Any, findings: Sequence[Finding], instances: Sequence[Seen], ledger: Sequence[Entry], logs: str
) -> str:
    """Findings, then the story of the first keys that they are about, open intents, and the ends of the logs."""
    keys = list(dict.fromkeys(finding.key for finding in findings if finding.key))[:MOST_KEYS]
    parts = [f"{len(findings)} findings:", *(f"  {finding}" for finding in findings[:MOST_FINDINGS])]
    for key in keys:
        parts += ["", f"=== {key}", *story(client, key, instances, ledger)]
    parts += ["", "=== open intents", *open_intents(client), "", "=== logs", logs]
    return "\n".join(parts)


def words_of(client: Any, findings: Iterable[Finding], instances: Sequence[Seen]) -> tuple[str, ...]:
    """Words that log lines about these findings contain: tags, instances, intents."""
    words: list[str] = []
    for key in dict.fromkeys(finding.key for finding in findings if finding.key):
        words.append(f'"{key.tag}"')
        words += [event.detail["intent"] for event in _events(client, key) if "intent" in event.detail]
        words += [seen.id for seen in instances if f"/{key.tag}" in seen.tags.get("Name", "")]
        if len(words) > 10 * MOST_KEYS:
            break
    return tuple(words)


def story(client: Any, key: PuterKey, instances: Sequence[Seen], ledger: Sequence[Entry]) -> Iterable[str]:
    """A key's record, its timeline, its instances, and the calls that concern them."""
    yield f"record: {read_records(client, [key])[key]}"
    intents: set[str] = set()
    for event in _events(client, key):
        intents |= {event.detail["intent"]} if "intent" in event.detail else set()
        yield f"{_clock(event.at)} {event.event} g{event.generation} {event.phase.value} {event.reason} {event.detail}"
    ids = {seen.id for seen in instances if seen.tags.get(INTENT) in intents}
    for seen in instances:
        if seen.id in ids:
            told = f"{seen.state} #{seen.launch_index} {seen.client_token} {seen.tags.get('Name')}"
            yield f"{_clock(seen.launched_at)} instance {seen.id} {told}"
    for entry in ledger:
        told = " ".join(entry.params.values())
        if ids & set(entry.effect) or any(intent in told for intent in intents):
            ended = f"{entry.code} {entry.answer}, {len(entry.effect)} changed"
            yield f"{_clock(entry.at)} call {entry.number} {entry.action} {ended}: {told[:200]}"


def open_intents(client: Any) -> Iterable[str]:
    """Intents that are not closed, and when they may be taken up."""
    for intent_id, at in client.zrange(names.due("intents", TARGET), 0, -1, withscores=True):
        doc = client.hget(names.intent(intent_id.decode()), "doc")
        told = {k: v for k, v in (msgspec.json.decode(doc) if doc else {}).items() if k != "arguments"}
        yield f"{intent_id.decode()} from {_clock(at)}: {told}"


def shares(ledger: Sequence[Entry]) -> str:
    """How much went wrong according to the ledger: refused calls, and lost answers of calls that had an effect."""
    changing = [e for e in ledger if e.code == "OK" and any(fnmatchcase(e.action, each) for each in MUTATING)]
    refused = sum(e.code == "ServiceUnavailable" for e in ledger) / max(1, len(ledger))
    lost = sum(e.answer == "dropped" for e in changing) / max(1, len(changing))
    return f"{refused:.1%} of calls refused with 503, {lost:.1%} of {len(changing)} mutating answers lost"


def _events(client: Any, key: PuterKey) -> list[Event]:
    return [msgspec.json.decode(raw, type=Event) for raw in client.lrange(public.events(key), 0, -1)]


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(at)) + f"{at % 1:.3f}"[1:]
