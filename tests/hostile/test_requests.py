"""Whatever a request contains, it costs a worker little, stops nobody, and is told what is wrong with it.

16 KB of nested MIME held up a worker's loop for half a second, 24,000 addresses all namespaces for twelve, and a number
with 300 digits its namespace for good.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import random
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from email.parser import BytesHeaderParser
from types import FrameType
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from puter_client.client import MachineRequest
from puter_client.contract.errors import InvalidInput
from puter_client.contract.multipart import MAX_HEADER_BYTES
from puter_client.contract.readers import MAX_CIDRS, parse_cidr
from puter_client.contract.userdata import MAX_PARTS, MAX_YAML_EVENTS, parts_of
from puter_client.store import names as public
from puter_worker.stages.decode import addressee_of, decode_request
from puter_worker.stages.intake import TURN_BYTES, USER_DATA_AT_ONCE, Intake
from puter_worker.stages.refused import Refused
from puter_worker.store.store import Store
from puter_worker.timings import Timings
from tests.hostile.requests import KINDS, hostile_requests, up
from tests.hostile.sizes import SEED, size
from tests.hostile.world import SharedRedis, shared, store
from tests.integration.workshop import spec

__all__ = ["shared", "store"]

ROUNDS = size(60, 10_000 // len(KINDS) + 1)
REQUESTS = ROUNDS * len(KINDS)


def look_at(raw: bytes) -> str | None:
    """Check a request as intake does; why it is refused."""
    parts_of.cache_clear()
    parse_cidr.cache_clear()
    try:
        decode_request(raw)
    except InvalidInput as error:
        addressee_of(raw)
        return str(error)
    return None


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are called, those in C too."""
    count = 0

    def called(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


# -- what a request costs ---


def test_a_request_is_accepted_or_refused_with_a_short_reason_on_one_line() -> None:
    outcomes = Counter[bool]()
    for number, raw in enumerate(itertools.islice(hostile_requests(SEED), REQUESTS)):
        why = look_at(raw)
        outcomes[why is None] += 1
        if why is not None:
            assert why.strip(), f"seed {SEED}, request {number}"
            assert len(why) < 10_000, f"seed {SEED}, request {number}"
            assert "\x1b" not in why, f"seed {SEED}, request {number}"

    assert min(outcomes.values()) > REQUESTS / 50, "both kinds are tried"


def test_no_request_makes_a_worker_call_many_functions() -> None:
    """Nested MIME made it call 280,000, 24,000 addresses 3.4 million."""
    look_at(up_with_everything())  # what is imported at its first use counts for nobody
    for number, raw in enumerate(itertools.islice(hostile_requests(SEED), REQUESTS)):
        calls = calls_of(lambda raw=raw: look_at(raw))  # type: ignore[misc]
        assert calls <= 15_000, f"seed {SEED}, request {number}: {raw[:100]!r}"


def up_with_everything() -> bytes:
    head = "Content-Type: multipart/mixed; boundary=b\n\n--b\n\n"
    return up(random.Random(SEED), {"region": "us-est-1", "user_data": f"{head}#cloud-config\na: b\n--b--\n"})


def test_no_request_makes_a_worker_read_much_with_what_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Counter[str]()

    def counted(name: str, real: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            done[name] += size(*words, **more)
            return real(*words, **more)

        return call

    monkeypatch.setattr(yaml.CSafeLoader, "get_event", counted("yaml", yaml.CSafeLoader.get_event, lambda _: 1))
    monkeypatch.setattr(ipaddress, "ip_network", counted("addresses", ipaddress.ip_network, lambda _: 1))
    normalize = counted("characters", unicodedata.normalize, lambda _, text: len(text))
    monkeypatch.setattr(unicodedata, "normalize", normalize)
    parsebytes = counted("headers", BytesHeaderParser.parsebytes, lambda _, text, *__: len(text))
    monkeypatch.setattr(BytesHeaderParser, "parsebytes", parsebytes)

    most = Counter[str]()
    for raw in itertools.islice(hostile_requests(SEED), REQUESTS):
        done.clear()
        look_at(raw)
        most |= done

    assert most["addresses"] == MAX_CIDRS
    assert MAX_YAML_EVENTS < most["yaml"] <= MAX_YAML_EVENTS + 3 + MAX_PARTS  # each part ends with no event
    assert 0 < most["headers"] <= (MAX_PARTS + 1) * (MAX_HEADER_BYTES + 2)
    assert 0 < most["characters"] <= 10_000


# -- intake ---


async def test_intake_answers_whatever_it_finds(
    shared: SharedRedis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = Counter[str]()

    def add(_: Refused, _namespace: str, told: Mapping[str, int], *_examples: object) -> None:
        reasons.update(told)

    monkeypatch.setattr(Refused, "add", add)
    intake = Intake(store, Timings())
    flood = hostile_requests(SEED)
    with capture_logs() as lines, shared.plain(shared.mallory) as mallory:
        for _ in range(ROUNDS):
            for raw in itertools.islice(flood, len(KINDS)):
                mallory.rpush(public.inbox("mallory:mallory"), raw)
            mallory.sadd(public.READY, "mallory:mallory")
            while (await store.requests.ready()).names:
                await intake.run_once()

    taken = [line for line in lines if line["event"] == "requests.taken"]
    outcomes = Counter[str]()
    for line in taken:
        outcomes.update(line["outcomes"])
    assert sum(line["count"] for line in taken) == REQUESTS, f"seed {SEED}"
    # A request that its record's version could not serve would count as an outcome and as refused.
    assert sum(outcomes.values()) + sum(reasons.values()) - outcomes["refused"] == REQUESTS, f"seed {SEED}"
    assert all(reason.strip() for reason in reasons)
    assert not [line for line in lines if line["log_level"] == "error"]
    async with shared.puter("mallory") as client:
        assert any(view.record for view in await client.views([f"job-{number}" for number in range(50)]))


@pytest.mark.parametrize("number", ["9" * 300, "-" + "9" * 300, "31536001"])
async def test_a_number_that_no_time_has_is_refused(shared: SharedRedis, store: Store, number: str) -> None:
    """The order for a machine was computed with it: its namespace's inbox was read again and again."""
    raw = b'{"type":"extend","tag":"one","user":"me","add_s":%s}' % number.encode()

    assert "must be at most 31536000" in (look_at(raw) or "")


async def test_user_data_that_takes_long_is_read_in_turns(shared: SharedRedis, store: Store) -> None:
    dice = random.Random(SEED)
    with shared.plain(shared.mallory) as mallory:
        for number in range(4 * USER_DATA_AT_ONCE):
            raw = up(dice, {"user_data": f"#cloud-config\nn{number}: [" + "a," * 900 + "]"}, tag=f"t-{number}")
            mallory.rpush(public.inbox("mallory:mallory"), raw)
        mallory.sadd(public.READY, "mallory:mallory")
    intake = Intake(store, Timings())
    async with shared.puter("betty") as betty:
        await betty.submit([MachineRequest("one", spec())])
        with capture_logs() as lines:
            await intake.run_once()
            (view,) = await betty.views(["one"])
        assert view.record is not None
        (mallorys,) = [line for line in lines if line["event"] == "requests.taken" and line["namespace"] == "mallory"]
        assert mallorys["count"] == USER_DATA_AT_ONCE

    for _ in range(3):
        await intake.run_once()
    with shared.plain(shared.worker) as behind:
        assert behind.llen(public.inbox("mallory:mallory")) == 0


async def test_other_stages_have_their_turn_between_requests(
    shared: SharedRedis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large requests are, no more of them than TURN_BYTES is read between two turns."""
    dice = random.Random(SEED)
    with shared.plain(shared.mallory) as mallory:
        for n in range(100):
            mallory.rpush(
                public.inbox("mallory:mallory"), up(dice, {"run": "x" * dice.randint(1, 16_000)}, tag=f"t-{n}")
            )
        mallory.sadd(public.READY, "mallory:mallory")
    read: list[int] = [0]

    def decode(raw: bytes, **more: Any) -> Any:
        read[-1] += len(raw)
        return decode_request(raw, **more)

    async def others() -> None:
        while True:
            await asyncio.sleep(0)
            read.append(0)

    monkeypatch.setattr("puter_worker.stages.intake.decode_request", decode)
    beside = asyncio.create_task(others())
    await Intake(store, Timings()).run_once()
    beside.cancel()

    assert sum(read) > 10 * TURN_BYTES
    assert max(read) <= TURN_BYTES + 20_000  # a request more
