"""How the end of a wait is told: counts, a table, exit codes, reasons."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from io import StringIO
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

from puter_client.cli import INTERRUPTED
from puter_client.cli.follow import (
    InFlight,
    applied,
    is_ordered,
    not_applied,
    outcomes,
    request,
    run,
    summary,
    tell_end,
    why_not,
)
from puter_client.cli.progress import Progress, bar_on, shared_reason
from puter_client.cli.up import success
from puter_client.cli.when import minute
from puter_client.client import MachineRequest, PuterClient
from puter_client.config import ClientSettings, Config, client_settings
from puter_client.contract.batch import BatchRow
from puter_client.contract.errors import NotPermitted, StoreUnavailable, WaitTimedOut
from puter_client.contract.order import Order, OrderKind
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_client.contract.request import Origin
from puter_client.contract.spec import Spec
from puter_client.paths import Paths
from puter_client.view import View, WaitFor

NOW = 1_800_000_000.0


def view(tag: str = "one", outcome: Outcome = Outcome.CREATED, message: str | None = None, **fields: Any) -> View:
    known: dict[str, Any] = {"phase": Phase.RUNNING, "created_at": NOW, "changed_at": NOW, **fields}
    return View(
        namespace="betty",
        tag=tag,
        record=Record(namespace="betty", tag=tag, **known),
        row=BatchRow(outcome=outcome, generation=1, request_number=1, message=message),
        batch_id="b1",
    )


def settings(namespace: str | None = None) -> ClientSettings:
    paths = Paths.from_environ({"PUTER_HOME": "/srv/puter"})
    return client_settings({"LOGNAME": "betty"}, namespace=namespace, config=Config(), paths=paths)


def told(views: Sequence[View]) -> list[str]:
    return [row.text for row in summary(views, WaitFor.RUNNING)]


class TestWhatExistedAlready:
    """Which notes tell what was changed of a machine, and what was not."""

    def order(self, **changes: Any) -> Order:
        known: dict[str, Any] = {"kind": OrderKind.EXTEND, "user": "betty", "given_at": NOW, "of_ttl": True}
        return Order(**(known | {"expires_at": NOW + 3_600.0} | changes))

    def changed(self, tag: str, order: Order | None, **row: Any) -> View:
        one = view(tag, Outcome.EXISTING, order=order)
        assert one.row
        return msgspec.structs.replace(one, row=msgspec.structs.replace(one.row, **row))

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"confirmed_at": NOW}, f"one existed already: it now ends itself at {minute(NOW + 3_600, NOW)}"),
            ({"confirmed_at": NOW, "expires_at": None}, "one existed already: it never ends itself now"),
            (
                {"expires_at": None},
                "one existed already: it never ends itself now (ordered, not confirmed by it yet)",
            ),
            (
                {"expires_at": None, "problem": "extend: EC2 said no"},
                "one existed already: it never ends itself now (extend: EC2 said no)",
            ),
        ],
    )
    def test_a_new_end_is_told_and_whether_its_machine_has_it(self, changes: dict[str, Any], says: str) -> None:
        assert applied([self.changed("one", self.order(**changes), applied=("ttl",))], NOW) == [says]

    def test_what_is_not_launched_yet_has_the_new_ttl_from_its_launch_on(self) -> None:
        told = applied([self.changed("one", None, applied=("ttl",))], NOW)
        assert told == ["one existed already: its new --ttl counts from its launch"]

    def test_many_with_the_same_end_are_one_note(self) -> None:
        order = self.order(confirmed_at=NOW)
        (told,) = applied([self.changed(f"job-{n}", order, applied=("ttl",)) for n in range(9)], NOW)
        assert told.startswith("job-0, job-1, job-2 and 6 more existed already: it now ends itself at ")

    def test_a_machine_whose_owner_has_ordered_something_else_since_has_no_note(self) -> None:
        order = self.order(of_ttl=False, confirmed_at=NOW)
        assert not is_ordered(self.changed("one", order, applied=("ttl",)))

    def test_a_ttl_of_settings_is_not_applied_and_told_so(self) -> None:
        one = self.changed("one", None, not_applied=("disk", "ttl"))
        assert not_applied([one], {"one": Spec(disk=9)}) == [
            "one existed already; not applied: --disk (use another tag, or wait until it has ended)",
            "one existed already, with another ttl than that of your settings: --ttl sets it anew",
        ]

    def test_a_machine_that_is_told_to_end_gets_no_ttl_at_all(self) -> None:
        one = self.changed("one", self.order(kind=OrderKind.STOP), not_applied=("ttl",))
        assert not_applied([one], {"one": Spec(ttl_s=60)}) == [
            "one existed already; not applied: --ttl (use another tag, or wait until it has ended)"
        ]


class TestSummary:
    def test_a_few_are_all_listed(self) -> None:
        lines = told([view("a"), view("b")])
        assert lines[:2] == ["2 puters: 2 created", "now: 2 running"]
        assert [line.split()[0] for line in lines[4:]] == ["a", "b"]

    def test_of_many_only_those_that_did_not_come_at_most_twenty(self) -> None:
        views = [view(f"good-{i}") for i in range(9_970)]
        views += [view(f"bad-{i}", phase=Phase.FAILED, ended_at=NOW) for i in range(30)]
        lines = told(views)
        assert lines[:2] == ["10,000 puters: 10,000 created", "now: 9,970 running, 30 failed"]
        assert [line.split()[0] for line in lines[4:-1]] == [f"bad-{i}" for i in range(20)]
        assert lines[-1] == "… 10 more"

    def test_what_failed_is_not_hidden_behind_what_was_cancelled(self) -> None:
        views = [view(f"a-{i}", phase=Phase.CANCELLED, ended_at=NOW) for i in range(5_000)]
        views += [view(f"bad-{i}", phase=Phase.FAILED, ended_at=NOW) for i in range(6)]
        assert [line.split()[0] for line in told(views)[4:10]] == [f"bad-{i}" for i in range(6)]

    def test_outcomes_are_counted_in_a_fixed_order(self) -> None:
        views = [view(outcome=Outcome.CONFLICT), view(outcome=Outcome.EXISTING), view(outcome=Outcome.CREATED)]
        assert outcomes(views) == "1 created, 1 existing, 1 conflict"


@pytest.mark.parametrize(
    ("outcome", "phase", "code"),
    [
        (Outcome.CREATED, Phase.RUNNING, 0),
        (Outcome.EXISTING, Phase.RUNNING, 0),
        (Outcome.DONE, Phase.TERMINATED, 0),
        (Outcome.CREATED, Phase.FAILED, 1),
        (Outcome.CONFLICT, Phase.RUNNING, 1),
        (Outcome.REFUSED, Phase.RUNNING, 1),
        (Outcome.SKIPPED, Phase.TERMINATED, 1),
    ],
)
def test_the_exit_code_says_whether_all_came(outcome: Outcome, phase: Phase, code: int) -> None:
    assert tell_end([view(outcome=outcome, phase=phase)], WaitFor.RUNNING, as_json=True) == code


class TestWhyNot:
    def test_awss_code_message_and_request_id_are_told(self) -> None:
        error = ErrorInfo(code="Blocked", message="This account is blocked", request_id="r-1")
        assert why_not(view(phase=Phase.FAILED, error=error)) == (
            "one: Blocked: This account is blocked (request id r-1)"
        )

    def test_a_conflict_is_told_in_the_words_of_its_row(self) -> None:
        told = why_not(view(outcome=Outcome.CONFLICT, message="running with another region"))
        assert told == "one: conflict: running with another region"


class TestComingBack:
    @staticmethod
    def in_flight(
        *tags: str, wait: WaitFor = WaitFor.RUNNING, batch: str | None = None, team: str | None = None
    ) -> InFlight:
        in_flight = InFlight(settings(team), wait, tags)
        in_flight.batch_id = batch
        in_flight.is_sent()
        return in_flight

    def test_one_tag_is_resume_hint_to_by_its_name(self) -> None:
        assert self.in_flight("one", batch="b1").resume_hint() == "resume with:\n  puter wait one\n  puter why one"

    def test_a_batch_by_its_id_in_the_namespace_that_was_named(self) -> None:
        assert self.in_flight(batch="b1", team="team").resume_hint() == (
            "resume with:\n  puter wait --batch b1 -n team\n  puter status --batch b1 -n team"
        )

    def test_a_few_tags_by_their_names(self) -> None:
        assert self.in_flight("a", "b").resume_hint() == "resume with:\n  puter wait a b\n  puter status a b"

    def test_all_by_naming_none(self) -> None:
        assert self.in_flight().resume_hint() == "resume with:\n  puter wait\n  puter status"

    def test_so_many_tags_that_nobody_would_read_them_by_naming_none(self) -> None:
        assert self.in_flight(*map(str, range(1_000))).resume_hint() == "resume with:\n  puter wait\n  puter status"

    def test_it_is_waited_for_as_far_as_before(self) -> None:
        told = self.in_flight("one", wait=WaitFor.TERMINATED, team="team").resume_hint()
        assert told == "resume with:\n  puter wait one --for terminated -n team\n  puter why one -n team"

    @pytest.mark.parametrize(
        ("tags", "batch", "said"),
        [
            (("one",), "b1", "the request continues"),
            (("a", "b"), None, "the requests continue"),
            ((), None, "the requests continue"),
            ((), "b1", "the batch continues"),
        ],
    )
    def test_what_goes_on_is_called_what_it_is(self, tags: tuple[str, ...], batch: str | None, said: str) -> None:
        in_flight = self.in_flight(*tags, batch=batch)
        assert in_flight.interrupt_text() == f"{said}; {in_flight.resume_hint()}"

    def test_nothing_goes_on_before_anything_was_sent(self) -> None:
        assert InFlight(settings(), tags=["one"]).interrupt_text() is None


class TestEnds:
    class Client:
        """Ends as it is told to, with the requests on their way."""

        def __init__(self, error: BaseException) -> None:
            self.error = error
            self.batch_id: str | None = None

        async def submit(self, _: object, *, batch_id: str, **__: object) -> None:
            self.batch_id = batch_id
            raise self.error

    def sending(self, client: Client, in_flight: InFlight) -> int:
        requested = [MachineRequest("one", Spec())]

        async def work() -> int:
            await request(cast("PuterClient", client), settings(), requested, in_flight, origin=Origin.SUBMIT)
            return 0

        return run(work, in_flight)

    def test_a_ctrl_c_while_a_batch_is_sent_names_the_batch(self, capsys: pytest.CaptureFixture[str]) -> None:
        client = self.Client(KeyboardInterrupt())
        assert self.sending(client, InFlight(settings())) == INTERRUPTED
        assert capsys.readouterr().err == (
            "puter: it is not known how many requests were sent; check with:\n"
            f"  puter status --batch {client.batch_id}\n"
            "puter: submitting them again launches nothing twice\n"
        )

    def test_a_redis_lost_while_a_request_is_sent_names_the_tag(self, capsys: pytest.CaptureFixture[str]) -> None:
        code = self.sending(self.Client(StoreUnavailable("gone")), InFlight(settings(), tags=["one"]))
        assert code == StoreUnavailable.exit_code
        assert capsys.readouterr().err.splitlines() == [
            "puter: gone",
            "puter: it is not known whether the request was sent; check with:",
            "  puter status one",
        ]

    def test_a_request_that_redis_does_not_permit_was_not_sent(self, capsys: pytest.CaptureFixture[str]) -> None:
        code = self.sending(self.Client(NotPermitted("no right")), InFlight(settings(), tags=["one"]))
        assert code == StoreUnavailable.exit_code
        assert capsys.readouterr().err.splitlines() == ["puter: no right"]

    @pytest.mark.parametrize("error", [StoreUnavailable("gone"), WaitTimedOut("gone")])
    def test_a_wait_that_breaks_off_says_how_to_resume_hint(
        self, error: StoreUnavailable | WaitTimedOut, capsys: pytest.CaptureFixture[str]
    ) -> None:
        in_flight = TestComingBack.in_flight("one", wait=WaitFor.TERMINATED)

        def work() -> Awaitable[int]:
            raise error

        assert run(work, in_flight) == error.exit_code
        assert capsys.readouterr().err == f"puter: gone\nputer: {in_flight.resume_hint()}\n"


class TestSuccess:
    RUNNING: dict[str, Any] = {  # noqa: RUF012
        "instance_id": "i-1",
        "instance_type": "t3.micro",
        "public_dns_name": "ec2.example",
        "ttl_s": 3_600,
        "expires_at": NOW + 3_600,
    }

    def test_one_that_stays_says_so(self) -> None:
        stays = view(**self.RUNNING | {"ttl_s": None, "expires_at": None})
        assert "runs      until somebody ends it" in success(stays, settings(), NOW)

    def test_one_that_was_ordered_to_stay_says_so(self) -> None:
        order = Order(kind=OrderKind.EXTEND, user="betty", given_at=NOW, sent_at=NOW)
        stays = view(**self.RUNNING | {"expires_at": None, "order": order})
        assert "runs      until somebody ends it" in success(stays, settings(), NOW)

    def test_a_machine_past_its_end_has_no_time_left(self) -> None:
        late = view(**self.RUNNING | {"expires_at": NOW - 600})
        (line,) = [line for line in success(late, settings(), NOW) if line.startswith("runs")]
        assert line.endswith(", 10m ago")

    def test_one_without_an_address_says_how_to_wait_for_it(self) -> None:
        lines = success(view(phase=Phase.LAUNCHING, reason="asking EC2"), settings(), NOW)
        assert lines[-2:] == ["phase     launching (asking EC2)", "no address yet: puter wait one"]

    def test_the_last_two_lines_are_for_pasting(self) -> None:
        *_, ssh, rsync = success(view(**self.RUNNING), settings(), NOW)
        assert (ssh, rsync[:6]) == ("ssh ec2-user@ec2.example", "rsync ")


def test_a_wait_that_is_over_at_once_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(WaitFor.RUNNING) as progress:
        progress.update([view("a"), view("b")])
    assert capsys.readouterr() == ("", "")


class TestBar:
    def drawn(self, width: int, done: int = 1_004) -> str:
        console = Console(file=StringIO(), width=width, color_system=None, force_terminal=True)
        bar = bar_on(console)
        bar.add_task("", total=1_500, completed=done, count=f"{done:>5,}/1,500", goal="running")
        console.print(bar.get_renderable())
        assert isinstance(console.file, StringIO)
        return console.file.getvalue().rstrip()

    @pytest.mark.parametrize("width", [40, 60, 140])
    def test_it_has_count_and_time(self, width: int) -> None:
        assert re.search(r" 1,004/1,500 running 0:00:0\d$", self.drawn(width))

    def test_the_bar_stays_as_wide_as_it_is(self) -> None:
        assert {self.drawn(80, done).index("/") for done in (0, 7, 999, 1_500)} == {self.drawn(80).index("/")}


def waiting(*reasons: str | None, estimates: Sequence[int | None] = ()) -> list[View]:
    """Tags that wait, for these reasons."""
    known = [*estimates, *[None] * len(reasons)]
    records = [
        Record(
            namespace="betty", tag=f"t-{n}", phase=Phase.LAUNCHING, created_at=0.0, changed_at=0.0, reason=reason,
            estimate_s=known[n],
        )
        for n, reason in enumerate(reasons)
    ]  # fmt: skip
    return [View(namespace="betty", tag=record.tag, record=record) for record in records]


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (["no capacity", "no capacity"], " - no capacity"),
        (["quota", "no capacity", "no capacity"], " - 2 no capacity"),
        ([], ""),
    ],
)
def test_a_line_ends_with_the_reason_that_most_share(reasons: list[str | None], told: str) -> None:
    assert shared_reason([*waiting(*reasons), view("runs")]) == told


def test_reasons_that_differ_in_their_estimates_alone_are_one() -> None:
    assert shared_reason(waiting("rate limit", "rate limit", estimates=[10, 70])) == " - rate limit, about 10s to 1m10s"
