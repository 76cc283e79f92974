"""Text that others wrote is harmless on a terminal, whatever it holds and whichever command prints it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pexpect
import pytest
import redis

from puter_client.cli.group import COMMANDS
from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.console import Console
from puter_client.contract.health import StageHealth, WorkerHealth
from puter_client.contract.key import PuterKey
from puter_client.contract.order import Order, OrderKind
from puter_client.contract.outcome import Outcome
from puter_client.contract.output import Output
from puter_client.contract.phase import Phase
from puter_client.contract.record import ErrorInfo, Event, EventKind, Record
from puter_client.contract.request import ConsoleRequest, Origin, Request, UpRequest
from puter_client.contract.result import Result
from puter_client.store import names
from tests.acceptance.cli_world import CliWorld, ended
from tests.acceptance.published import NAMESPACE, Published

# A title, an erased screen, a style, C1 controls, directions of writing, line ends, a tab, NUL, DEL, a backspace, and
# what is invisible; a stack of marks; wide letters, which are shown.
BEGINS = "A\x1b]0;owned\x07B\x1b[2JC\x1b[5mD\x9b31mE\x9d0;x\x9cF"
INVISIBLE = "\u00ad\u034f\u115f\u1160\u17b4\u180b\u200b\u200d\u2060\u2800\u3164\ufe0f\ufeff\uffa0\U000e0041\U000e0100"
STACK = "e" + 9 * "\u0301"
EVIL = f"{BEGINS}\u202eG\u2066H\u2028I\x85J\nK\rL\tM\x00N\x7fO\x08P{INVISIBLE}{STACK}漢字\U0001f600"
SHOWN = "A\ufffd]0;owned\ufffdB\ufffd[2JC\ufffd[5mD\ufffd31mE\ufffd0;x\ufffdF"
# What commands and rich write themselves; what is evil looks otherwise.
_OWN = re.compile(r"\x1b\[(?:(?:0|1|2|3\d|9\d)?m|H|J|K|2K|\d*A|\?25[lh])")
_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


def record(world: Published, tag: str, phase: Phase = Phase.RUNNING, **fields: Any) -> Record:
    """A record with evil texts wherever it has a text."""
    texts = ("reason", "owner", "spec_digest", "target", "profile", "region", "instance_type", "key_name", "account_id",
             "private_key_path", "ami_id", "availability_zone", "vpc_id", "public_dns_name", "public_ip", "private_ip",
             "instance_id", "batch_id")  # fmt: skip
    known: dict[str, Any] = dict.fromkeys(texts, EVIL)
    known |= {"created_at": world.now - 9, "changed_at": world.now - 9, "running_at": world.now - 9}
    return Record(namespace=NAMESPACE, tag=tag, phase=phase, **known | fields)


ERROR = ErrorInfo(code=EVIL, message=EVIL, request_id=EVIL)
REACHED: dict[str, Any] = {"public_dns_name": None, "public_ip": "192.0.2.1", "instance_id": "i-0123456789abcdef0"}


def order(kind: OrderKind) -> Order:
    return Order(kind=kind, user=EVIL, given_at=1.0, reason=EVIL, problem=EVIL, expires_at=1e300, of_ttl=True)


def events(world: Published) -> list[Event]:
    detail = {EVIL: EVIL, "notice": f"{EVIL}\n{EVIL}"}
    kinds = (EVIL, EventKind.LAUNCH_BEGUN, EventKind.INSTANCE_FOUND)
    return [
        Event(at=world.now, event=kind, generation=1, phase=Phase.RUNNING, reason=EVIL, request_id=EVIL, detail=detail)
        for kind in kinds
    ]


@pytest.fixture
def evil(published: Published) -> Iterator[Published]:
    """Redis as somebody has filled it who wishes users ill, and a worker of theirs that answers requests."""
    published.records(
        record(published, "run"),
        record(published, "reached", **REACHED),
        record(published, "told", reason=None, order=order(OrderKind.STOP)),
        record(published, "wait", Phase.LAUNCHING, target=None, estimate_s=5),
        record(published, "bad", Phase.FAILED, error=ERROR, ended_at=published.now),
        record(
            published, "done", Phase.TERMINATED,
            result=Result.FAILED, exit_code=3, log_tail=EVIL, has_workload=True, ended_at=published.now,
        ),
    )  # fmt: skip
    printed = Output(generation=1, text=EVIL, total_bytes=10**12)
    published.redis.set(names.output(PuterKey(NAMESPACE, "done")), msgspec.json.encode(printed))
    for tag in ("run", "bad"):
        published.events(tag, *events(published))
    info = BatchInfo(batch_id="b1", namespace=NAMESPACE, size=3, owner=EVIL, created_at=published.now)
    rows = {
        "run": BatchRow(outcome=Outcome.EXISTING, request_number=1, applied=(EVIL,), not_applied=(EVIL,)),
        "bad": BatchRow(outcome=Outcome.REFUSED, message=EVIL),
        "done": BatchRow(outcome=Outcome.CONFLICT, message=EVIL),
    }
    published.batch(info, rows)
    # Names that no worker writes.
    published.records(record(published, f"x{EVIL}"))
    misnamed = msgspec.json.encode(record(published, EVIL))
    halved = msgspec.json.encode(record(published, "half", reason="X")).replace(b'"X"', rb'"\ud800"')
    published.hash(names.record(PuterKey(NAMESPACE, "other")), {"doc": misnamed})
    published.hash(names.record(PuterKey(NAMESPACE, "half")), {"doc": halved})
    published.hash(names.batch(NAMESPACE, "b1"), {EVIL: msgspec.json.encode(rows["bad"])})
    published.redis.zadd(names.index(NAMESPACE), {"other": 1e15, "half": 1e15})
    for name in (names.index(NAMESPACE), names.batches(NAMESPACE), names.WORKERS):
        published.redis.zadd(name, {b"\xff": 1e15})
    evil_batch = msgspec.structs.replace(info, batch_id=EVIL, created_at=published.now - 60)
    published.batch(evil_batch, rows)
    published.worker(health(published, "h:1:a"), ago_s=-3_600)
    worker = threading.Thread(target=answer, args=(published,))
    worker.start()
    yield published
    published.redis.rpush(names.inbox(NAMESPACE), b"")
    worker.join()


def health(world: Published, worker_id: str) -> WorkerHealth:
    at = world.now
    stage = StageHealth(name=EVIL, last_success_at=at - 300, last_error_at=at, last_error=EVIL, runs=1)
    return WorkerHealth(
        worker_id=worker_id, host=EVIL, pid=1, version=EVIL, started_at=at - 900, seen_at=at + 3_600, profiles=(EVIL,),
        stages=(stage,),
    )  # fmt: skip


def answer(world: Published) -> None:
    """Answer each request as the worst worker would; an empty one ends it."""
    while raw := world.redis.blpop([names.inbox(NAMESPACE)])[1]:  # type: ignore[index]
        request = _decoder.decode(raw)
        if isinstance(request, ConsoleRequest):
            problem = EVIL if request.tag == "reached" else None
            console = Console(generation=1, read_at=time.time(), text=EVIL, problem=problem)
            world.redis.set(names.console(PuterKey(NAMESPACE, request.tag)), msgspec.json.encode(console))
            continue
        if not isinstance(request, UpRequest):
            if request.tag == "wait":
                world.records(record(world, request.tag, Phase.CANCELLED, ended_at=world.now))
            continue
        info = BatchInfo(
            batch_id=request.batch, namespace=NAMESPACE, size=request.size, owner=EVIL, created_at=world.now
        )
        refused = request.tag.startswith("no")
        outcome, message = (Outcome.REFUSED, EVIL) if refused else (Outcome.CREATED, None)
        others = (EVIL, "ttl", "public_key")
        row = BatchRow(outcome=outcome, request_number=1, message=message, applied=others, not_applied=others)
        bad = request.tag.startswith("bad")
        known = record(world, request.tag)
        if request.origin is Origin.SUBMIT:
            known = known.replace(order=order(OrderKind.EXTEND))
        world.records(known.replace(phase=Phase.FAILED, error=ERROR, ended_at=world.now) if bad else known)
        world.events(request.tag, *events(world))
        world.batch(info, {request.tag: row})
        world.redis.publish(names.channel(NAMESPACE), request.tag)


def harmless(written: str) -> str:
    """What was written, without Puter's own sequences and without blanks; nothing is left to obey."""
    visible = _OWN.sub("", written).replace("\r", "").replace("\n", "")
    assert sorted({c for c in visible if not c.isprintable() or c in INVISIBLE}) == []
    assert 3 * "\u0301" not in visible
    assert "Traceback" not in visible
    assert "internal error" not in visible
    return "".join(visible.split())


def on_terminal(evil: Published, words: str, *, columns: int = 80) -> pexpect.spawn[str]:
    programs = evil.world.program("ssh", 'printf "%s\\n" "$@"')
    evil.world.program("rsync", 'printf "%s\\n" "$@"')
    return evil.world.on_terminal(*words.split(), columns=columns, PATH=programs)


UP = "--ssh-from none --timeout 30s"
PRINTING = [
    "status", "status --all --failed", "status told", "status run bad done wait", "status --batch b1",
    "status --batch last",
    "wait bad run", "wait --batch b1", "wait wait --for running --timeout 1s", "wait --for terminated --timeout 1s",
    "batches", "why run", "why bad", "why run --log",
    "why done", "cancel run", "cancel bad run",
    "logs done", "logs done -f", "logs run", "logs reached", "logs run --console", "logs run bad done", "logs wait",
    "logs --batch b1", "logs --batch b1 --failed",
    "ssh run", "ssh bad", "rsync run ./ w/", "ssh reached", "rsync reached ./ w/",
    f"up new {UP}", f"up bad-new {UP}", f"up no-new {UP}",
    f"submit --tag new --wait running {UP}", f"submit --tag no --wait running {UP}",
    f"submit --tag bad-{{i}} --count 3 --wait running {UP}",
]  # fmt: skip
SILENT = [
    "ssh-config",
    "cancel wait",
    "stop wait",
    "extend wait +1h",
    "status other half",
    "why other",
    "status --batch nobody's",
]
JSON = ["status --json", "status --batch b1 --json", "wait bad run --json", "batches --json", "why run --json",
        "logs done --json", "logs run --json", "logs done bad --json",
        "cancel run --json", f"up new --json {UP}", f"submit --tag new-{{i}} --count 2 --json {UP}"]  # fmt: skip
# Nothing that others wrote reaches them but by the log, tests/unit/test_worker_logs.py, the engine, below, names of
# users by Redis and its file, tests/integration/test_admin_user.py, or a policy, tests/acceptance/test_cli_policy.py.
ELSEWHERE = {"worker", "demo", "local", "admin"}


def test_every_command_is_tried() -> None:
    assert {words.split()[0] for words in (*PRINTING, *SILENT, *JSON)} | ELSEWHERE == COMMANDS.keys()


@pytest.mark.parametrize("columns", [40, 200])
@pytest.mark.parametrize("words", PRINTING)
def test_it_is_shown_and_obeyed_by_no_terminal(evil: Published, words: str, columns: int) -> None:
    _, written = ended(on_terminal(evil, words, columns=columns))
    assert SHOWN in harmless(written)


@pytest.mark.parametrize("words", SILENT)
def test_what_cannot_be_is_passed_over(evil: Published, words: str) -> None:
    _, written = ended(on_terminal(evil, words))
    assert "owned" not in harmless(written)


@pytest.mark.parametrize("words", ["status --watch", "status --watch --batch b1"])
def test_a_watch_shows_it_and_no_terminal_obeys(evil: Published, words: str) -> None:
    terminal = on_terminal(evil, words)
    terminal.expect_exact("\x1b[J")
    written = str(terminal.before)
    terminal.sendintr()
    assert SHOWN in harmless(written)
    assert ended(terminal)[0] == 130


@pytest.mark.parametrize("words", JSON)
def test_programs_get_it_as_it_is_and_terminals_see_escapes(evil: Published, words: str) -> None:
    _, written = ended(on_terminal(evil, words, columns=10_000))
    harmless(written)
    objects = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    texts = {text for one in objects for text in one.values() if isinstance(text, str)}
    assert EVIL in texts


def test_no_host_block_has_a_line_that_others_wrote(evil: Published) -> None:
    lines = evil.world.puter("ssh-config").out.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("Host ")] == ["puter-betty-reached"]
    assert {line.split()[0] for line in lines if line} == {
        "#", "Host", "HostName", "User", "HostKeyAlias", "UserKnownHostsFile", "StrictHostKeyChecking",
    }  # fmt: skip


def test_the_log_of_this_computer_is_not_obeyed_either(evil: Published) -> None:
    logs = evil.world.paths.logs
    logs.mkdir(parents=True)
    line = {"namespace": NAMESPACE, "tag": "run", "event": EVIL, "level": EVIL, "timestamp": EVIL, EVIL: [EVIL]}
    (logs / "worker.jsonl").write_text(json.dumps(line) + "\n")
    _, written = ended(on_terminal(evil, "why run --log"))
    assert harmless(written).count(SHOWN) > 20


@pytest.mark.parametrize("words", ["local status", "local status --stages", "local status --json"])
def test_the_health_of_the_engines_worker_is_not_obeyed_either(fresh: CliWorld, words: str) -> None:
    fresh.puter("local", "start")
    (url,) = re.findall(r"unix://\S+", fresh.puter("local", "status").out)
    engine = Published.__new__(Published)
    engine.redis, engine.now = redis.Redis.from_url(url), 1_700_000_000.0
    engine.worker(health(engine, "evil:1:a"), ago_s=-3_600)
    engine.redis.close()
    _, written = ended(fresh.on_terminal(*words.split(), NO_COLOR="1"))
    assert SHOWN in harmless(written) or json.loads(written)["workers"][-1]["host"] == EVIL
