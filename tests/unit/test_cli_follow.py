"""How the end of a wait is told: counts, a table, exit codes, reasons."""

from __future__ import annotations

from typing import Any

import pytest

from puter_client.cli.follow import Going, outcomes, summary, tell_end, why_not
from puter_client.cli.progress import Progress
from puter_client.cli.up import success
from puter_client.config import Config, Settings, settle
from puter_client.contract.batch import BatchRow
from puter_client.contract.phase import Outcome, Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_client.paths import Paths
from puter_client.view import View, WaitFor

NOW = 1_800_000_000.0


def view(tag: str = "one", outcome: Outcome = Outcome.CREATED, message: str | None = None, **fields: Any) -> View:
    known: dict[str, Any] = {"phase": Phase.RUNNING, "created_at": NOW, "changed_at": NOW, **fields}
    return View(
        namespace="betty",
        tag=tag,
        record=Record(namespace="betty", tag=tag, **known),
        row=BatchRow(outcome=outcome, generation=1, wish=1, message=message),
        batch_id="b1",
    )


def settings(namespace: str | None = None) -> Settings:
    paths = Paths.from_environ({"PUTER_HOME": "/srv/puter"})
    return settle({"LOGNAME": "betty"}, namespace=namespace, config=Config(), paths=paths)


class TestSummary:
    def test_a_few_are_all_listed(self) -> None:
        lines = summary([view("a"), view("b")], WaitFor.RUNNING)
        assert lines[:2] == ["2 puters: 2 created", "now: 2 running"]
        assert [line.split()[0] for line in lines[4:]] == ["a", "b"]

    def test_of_many_only_those_that_did_not_come_at_most_twenty(self) -> None:
        views = [view(f"good-{i}") for i in range(9_970)]
        views += [view(f"bad-{i}", phase=Phase.FAILED, ended_at=NOW) for i in range(30)]
        lines = summary(views, WaitFor.RUNNING)
        assert lines[:2] == ["10,000 puters: 10,000 created", "now: 9,970 running, 30 failed"]
        assert [line.split()[0] for line in lines[4:-1]] == [f"bad-{i}" for i in range(20)]
        assert lines[-1] == "+10 more"

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
    def test_one_tag_is_come_back_to_by_its_name(self) -> None:
        assert Going(settings(), ["one"]).come_back() == "puter wait one   puter why one"

    def test_a_batch_by_its_id_in_the_namespace_that_was_named(self) -> None:
        going = Going(settings("team"))
        going.batch_id = "b1"
        assert going.come_back() == "puter wait --batch b1 -n team   puter status --batch b1 -n team"

    def test_nothing_goes_on_before_anything_was_submitted(self) -> None:
        assert Going(settings()).come_back() is None


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
        assert "lives     until somebody ends it" in success(stays, settings(), NOW)

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
