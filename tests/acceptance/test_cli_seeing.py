"""What matters is seen: on a small terminal, in a table, and by programs."""

from __future__ import annotations

import re
from typing import Any

import pexpect
import pytest

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_client.contract.result import Result
from tests.acceptance.cli_world import ROOT, ended
from tests.acceptance.published import NAMESPACE, Published
from tests.acceptance.screen import Screen

MAX_PARALLEL = "waiting for one of the batch's 120 machines to end (max_parallel)"
DENIED = "You are not authorized to perform this operation. Ask who manages the role of the workers."


def record(world: Published, tag: str, phase: Phase, **fields: Any) -> Record:
    known = {"created_at": world.now - 60, "changed_at": world.now - 60, **fields}
    return Record(namespace=NAMESPACE, tag=tag, phase=phase, **known)


def running(world: Published, tag: str, **fields: Any) -> Record:
    known = {"instance_id": "i-0123456789abcdef0", "public_ip": "203.0.113.25", "labelled": True}
    return record(world, tag, Phase.RUNNING, **known | fields)


def failed(world: Published, tag: str) -> Record:
    error = ErrorInfo(code="UnauthorizedOperation", message=DENIED)
    return record(world, tag, Phase.FAILED, reason=DENIED, error=error, ended_at=world.now - 60)


@pytest.fixture
def busy(published: Published) -> Published:
    """201 machines run, 80 requests wait, 6 have failed and 5,000 are cancelled."""
    published.records(
        *(running(published, f"run-{n}") for n in range(201)),
        *(record(published, f"wait-{n}", Phase.LAUNCHING, reason=MAX_PARALLEL) for n in range(80)),
        *(failed(published, f"bad-{n}") for n in range(6)),
        *(record(published, f"off-{n}", Phase.CANCELLED, ended_at=published.now - 5) for n in range(5_000)),
    )
    published.ready_worker()
    return published


def looked_at(terminal: pexpect.spawn[str], pattern: str, columns: int = 80) -> list[str]:
    """The lines of the screen as soon as the pattern was written; the last picture may still be drawn below it."""
    terminal.expect(pattern)
    screen = Screen(columns)
    screen.feed(f"{terminal.before}{terminal.after}")
    return screen.rows()


def test_a_watch_shows_failures_and_what_waits_before_what_runs(busy: Published) -> None:
    rows = looked_at(busy.world.on_terminal("status", "--watch"), r"… [0-9,]+ more")

    assert rows[:7] == [
        "total 5,287: 80 launching, 201 running, 6 failed, 5,000 cancelled",
        "failed (6)",
        "  bad-0, bad-1, bad-2, bad-3, bad-4, bad-5: failed",
        "    UnauthorizedOperation: You are not authorized to perform this operation. Ask",
        "    who manages the role of the workers.",
        "80 waiting for one of the batch's 120 machines to end (max_parallel)",
        "live (201)",
    ]
    assert [row.split()[0] for row in rows[7:22]] == [f"run-{n}" for n in range(15)]
    assert rows[22:] == ["… 186 more", ""]
    assert "\n".join(rows) in (ROOT / "docs" / "commands.md").read_text()


def test_a_wait_shows_the_same_below_its_bar(busy: Published) -> None:
    info = BatchInfo(batch_id="b1", namespace=NAMESPACE, size=287, owner="betty", created_at=busy.now)
    tags = [f"{name}-{n}" for name, count in (("run", 201), ("wait", 80), ("bad", 6)) for n in range(count)]
    busy.batch(info, {tag: BatchRow(outcome=Outcome.CREATED, request_number=1) for tag in tags})

    rows = looked_at(busy.world.on_terminal("wait", "--batch", "b1"), r"… [0-9,]+ more")

    assert re.search(r"207/287 running 0:00:0\d$", rows[0])
    assert rows[1:3] == ["total 287: 80 launching, 201 running, 6 failed", "failed (6)"]
    assert rows[6] == "80 waiting for one of the batch's 120 machines to end (max_parallel)"
    assert [row.split()[0] for row in rows[8:22]] == [f"run-{n}" for n in range(14)]
    assert rows[22:] == ["… 187 more", ""]


def test_a_watch_fits_into_a_terminal_that_was_resized(busy: Published) -> None:
    terminal = busy.world.on_terminal("status", "--watch")
    looked_at(terminal, r"… 186 more")
    terminal.setwinsize(12, 60)
    terminal.expect(r"… 200 more")

    screen = Screen(60, 12)
    screen.feed("total " + f"{terminal.before}{terminal.after}".rpartition("total ")[2])
    assert screen.rows() == [
        "total 5,287: 80 launching, 201 running, 6 failed, 5,000",
        "cancelled",
        "failed (6)",
        "  bad-0, bad-1, bad-2, bad-3, bad-4, bad-5: failed",
        "    UnauthorizedOperation: You are not authorized to perform",
        "    this operation. Ask who manages the role of the workers.",
        "80 waiting for one of the batch's 120 machines to end",
        "  (max_parallel)",
        "live (201)",
        "run-0   running  no end        203.0.113.25",
        "… 200 more",
        "",
    ]


def test_few_failures_are_the_first_of_a_table(busy: Published) -> None:
    code, shown = ended(busy.world.on_terminal("status"))
    lines = [line.rstrip() for line in shown.splitlines()]

    assert (code, lines[1]) == (0, "failed (6)")
    assert [line.split()[0] for line in lines if line.startswith("bad-")] == [f"bad-{n}" for n in range(6)]
    assert lines[-1] == "total 5,287: 80 launching, 201 running, 6 failed, 5,000 cancelled"
    assert "… 4,800 more" in lines


@pytest.mark.parametrize("columns", [40, 80, 132])
def test_a_reason_is_never_cut(published: Published, columns: int) -> None:
    published.records(failed(published, "bad"), record(published, "slow", Phase.LAUNCHING, reason=DENIED))
    published.ready_worker()
    code, shown = ended(published.world.on_terminal("status", columns=columns))
    assert max(map(len, shown.splitlines())) <= columns
    assert (code, " ".join(shown.split()).count(DENIED)) == (0, 2)


def test_the_live_line_of_one_tag_has_its_whole_reason(published: Published) -> None:
    published.records(record(published, "slow", Phase.LAUNCHING, reason=DENIED))
    published.ready_worker()
    rows = looked_at(published.world.on_terminal("wait", "slow", columns=40), r"\(\d+s\)", columns=40)

    assert " ".join(rows).split("(")[0].strip() == f"slow: launching - {DENIED}"


class TestFilters:
    @pytest.fixture
    def results(self, published: Published) -> Published:
        """Workloads that ended in each way, and machines in each phase."""
        published.records(
            *(record(published, f"r-{n}", Phase.TERMINATED, result=result, exit_code=n, ended_at=published.now)
              for n, result in enumerate(Result)),
            *(record(published, f"p-{phase}", phase, ended_at=published.now if phase in ENDED else None)
              for phase in Phase),
        )  # fmt: skip
        published.ready_worker()
        return published

    @pytest.mark.parametrize(
        ("words", "tags"),
        [
            (["--failed"], ["p-failed", "r-failed", "r-timed_out", "r-interrupted", "r-stopped", "r-lost"]),
            (["--result", "succeeded"], ["r-succeeded"]),
            (["--result", "lost,failed"], ["r-failed", "r-lost"]),
            (["--result", "lost", "--result", "failed"], ["r-failed", "r-lost"]),
            (["--phase", "running, queued"], ["p-queued", "p-running"]),
            (["--phase", "failed"], ["p-failed"]),
            (["--failed", "--phase", "terminated", "--result", "lost,succeeded"], ["r-lost"]),
            (["--failed", "p-failed", "p-running"], ["p-failed"]),
            (["--failed", "--phase", "running"], []),
        ],
    )
    def test_they_choose_among_what_is_selected(self, results: Published, words: list[str], tags: list[str]) -> None:
        named = {f"r-{n}": f"r-{result}" for n, result in enumerate(Result)}
        ran = results.world.puter("status", "--json", *words)
        known = {f"r-{result}" for result in Result} | {f"p-{phase}" for phase in Phase}
        assert ran.code == 0
        assert {named.get(one["tag"], one["tag"]) for one in ran.objects()} == set(tags) & known

    def test_of_a_batch_what_was_refused_has_failed(self, published: Published) -> None:
        info = BatchInfo(batch_id="b1", namespace=NAMESPACE, size=3, owner="betty", created_at=published.now)
        outcomes = [Outcome.CREATED, Outcome.CONFLICT, Outcome.CANCELLED]
        published.records(*(running(published, f"t-{outcome}") for outcome in outcomes))
        published.batch(info, {f"t-{one}": BatchRow(outcome=one, request_number=1) for one in outcomes})
        published.ready_worker()
        ran = published.world.puter("status", "--batch", "last", "--failed", "--json")
        assert [one["tag"] for one in ran.objects()] == ["t-conflict"]

    def test_how_many_are_not_shown_is_told(self, results: Published) -> None:
        ran = results.world.puter("status", "--failed", "p-running", "p-failed")
        assert ran.out.splitlines()[-1] == "not shown, since the filters do not match: 1"
        ran = results.world.puter("status", "--failed", "p-running")
        assert ran.out == "none of 1 matches the filters\n"

    def test_result_and_exit_code_stand_in_the_table_and_the_totals(self, results: Published) -> None:
        assert re.search(r"^r-1 +failed .* exit code 1$", results.world.puter("status").out, re.MULTILINE)
        rows = looked_at(results.world.on_terminal("status", "--watch"), r"live \(2\)")
        assert "2 failed (1 with exit code 1)" in " ".join(rows[:3])


class TestAbsence:
    def test_status_says_since_when_no_worker_has_been_there(self, published: Published) -> None:
        published.records(running(published, "run"))
        published.ready_worker(ago_s=40)
        for words in (["status"], ["status", "run"]):
            told = published.world.puter(*words).out.splitlines()[-1]
            assert re.fullmatch(r"no worker for \d+[sm]; state as of [0-9 :-]+", told)

    def test_so_it_does_on_a_terminal_that_is_watched(self, published: Published) -> None:
        published.records(running(published, "run"))
        published.ready_worker(ago_s=40)
        rows = looked_at(published.world.on_terminal("status", "--watch"), "live")
        assert re.fullmatch(r"no worker for \d+[sm]; state as of [0-9 :-]+", rows[1])

    def test_for_programs_it_is_told_on_standard_error(self, published: Published) -> None:
        published.records(running(published, "run"))
        published.ready_worker(ago_s=40)
        ran = published.world.puter("status", "--json")
        assert [one["tag"] for one in ran.objects()] == ["run"]
        assert re.fullmatch(r"puter: no worker for \d+[sm]; state as of [0-9 :-]+\n", ran.err)

    def test_after_the_last_worker_has_ended_in_order_the_state_is_that_of_the_records(
        self, published: Published
    ) -> None:
        published.records(
            running(published, "run", observed_at=published.now - 7_200, changed_at=published.now - 7_200)
        )
        out = published.world.puter("status").out
        assert re.search(r"^no worker is running; state as of [0-9 :-]+$", out, re.MULTILINE)

    def test_nothing_is_said_while_one_is_there(self, published: Published) -> None:
        published.records(running(published, "run"))
        published.ready_worker(ago_s=5)
        ran = published.world.puter("status")
        assert "no worker" not in ran.out + ran.err


ENDED = {Phase.TERMINATED, Phase.FAILED, Phase.CANCELLED}
ORDER = ["job-1", "job-2", "job-10", "job-10b", "job-11", "other"]


class TestOrder:
    @pytest.fixture
    def jobs(self, published: Published) -> Published:
        """The same tags as a batch, written in another order."""
        published.records(
            *(running(published, tag, instance_id=f"i-{n:017x}") for n, tag in enumerate(sorted(ORDER, reverse=True)))
        )
        info = BatchInfo(batch_id="b1", namespace=NAMESPACE, size=len(ORDER), owner="betty", created_at=published.now)
        published.batch(info, {tag: BatchRow(outcome=Outcome.CREATED, request_number=1) for tag in sorted(ORDER)})
        published.ready_worker()
        return published

    @pytest.mark.parametrize(
        "words",
        [
            ["status"],
            ["status", *sorted(ORDER)],
            ["status", "--batch", "b1"],
            ["wait"],
            ["wait", *sorted(ORDER)],
            ["wait", "--batch", "b1"],
            ["cancel", *sorted(ORDER)],
            ["cancel", "--batch", "b1"],
        ],
        ids=" ".join,
    )
    def test_numbers_in_tags_count_as_numbers(self, jobs: Published, words: list[str]) -> None:
        assert [one["tag"] for one in jobs.world.puter(*words, "--json").objects()] == ORDER
        ran = jobs.world.puter(*words)
        listed = re.findall(r"^(?:puter: )?(job-\w+|other)\b", ran.out + ran.err, re.MULTILINE)
        assert listed == ORDER

    def test_so_they_do_among_the_hosts_of_ssh(self, jobs: Published) -> None:
        hosts = re.findall(r"^Host puter-betty-(.*)$", jobs.world.puter("ssh-config").out, re.MULTILINE)
        assert hosts == ORDER
