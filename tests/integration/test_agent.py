"""The agent on a machine: workloads run once, orders are obeyed, and every end reaches the console."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from puter_client.contract.result import Result
from puter_worker.ec2.frame import Frame
from tests.integration.agent_bed import NONCE, AgentBed, user_data

Make = Callable[..., AgentBed]
WORKLOAD = "puter-workload.service"
# It ends by SIGTERM only, and has written something before.
WAITS = "trap 'echo told; exit 7' TERM; echo begun; while :; do read -r -t 0.05 <> <(:); done"
STUBBORN = "trap '' TERM; echo begun; while :; do read -r -t 0.05 <> <(:); done"


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Make]:
    """Makes machines, and ends their processes."""
    made: list[AgentBed] = []

    def make(run: str | None, **machine: object) -> AgentBed:
        made.append(AgentBed(tmp_path / str(len(made)), user_data(run, **machine)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def frame_of(machine: AgentBed) -> Frame:
    machine.until("the machine ends", lambda: machine.shutdowns)
    assert machine.frame is not None, machine.console.read_text()
    assert machine.shutdowns[0] == "-h now"
    return machine.frame


def begun(machine: AgentBed) -> AgentBed:
    """A machine whose agent runs and whose workload has begun."""
    machine.start()
    machine.until("the workload begins", lambda: "begun" in machine.output)
    return machine


# -- how workloads end ---


@pytest.mark.parametrize(
    ("run", "result", "code", "reason"),
    [
        ("true", Result.SUCCEEDED, 0, None),
        ("exit 75", Result.FAILED, 75, None),
        ("exit 193", Result.FAILED, 193, None),
        ("exit 255", Result.FAILED, 255, None),
        ("kill -KILL $$", Result.FAILED, 137, "ended by signal 9"),
        ("no-such-command", Result.FAILED, 127, None),
    ],
)
def test_a_workloads_exit_code_is_its_result(
    bed: Make, run: str, result: Result, code: int, reason: str | None
) -> None:
    machine = bed(run).boot()
    machine.start()

    frame = frame_of(machine)

    assert (frame.result, frame.exit_code, frame.reason) == (result, code, reason)
    assert frame.started_at is not None
    assert frame.started_at <= (frame.finished_at or 0)


def test_the_frame_has_the_last_of_the_output(bed: Make) -> None:
    machine = bed('echo "hello $WHAT"; echo oops >&2', env={"WHAT": "wörld"}).boot()
    machine.start()

    frame = frame_of(machine)

    assert (frame.output, frame.output_bytes) == ("hello wörld\noops\n", 18)


def test_long_output_is_cut_at_its_beginning_and_both_frames_stay_under_16_kb(bed: Make) -> None:
    machine = bed(r"for ((n = 0; n < 9000; n++)); do printf '%05d\0\xff\n' $n; done").boot()
    machine.start()

    frame = frame_of(machine)

    assert frame.output_bytes == 9_000 * 8
    assert frame.output.endswith("08999\0\N{REPLACEMENT CHARACTER}\n")
    lines = [line for line in machine.console.read_text().splitlines() if line.startswith("puter:frame ")]
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    assert sum(len(line) + 2 for line in lines) <= 2 * 16_384


def test_on_exit_keep_leaves_the_machine(bed: Make) -> None:
    machine = bed("exit 3", ends_with_workload=False).boot()
    machine.start()
    machine.until("the frame is written", (machine.state / "frame.written").exists)

    machine.metadata("tags/instance/puter:order", "stop")
    frame = frame_of(machine)

    assert frame.exit_code == 3
    assert len(machine.shutdowns) >= 1


def test_without_docker_a_workload_that_needs_it_does_not_run(bed: Make) -> None:
    machine = bed("echo ran").boot()
    (machine.bed / "broken/docker").touch()
    machine.start()

    frame = frame_of(machine)

    assert (frame.result, frame.exit_code, frame.reason) == (Result.FAILED, 69, "did not run: Docker is not up")


def test_a_workload_that_needs_no_docker_runs_without_it(bed: Make) -> None:
    machine = bed("echo ran", docker=False).boot()
    (machine.bed / "broken/docker").touch()
    machine.start()

    assert frame_of(machine).output == "ran\n"


def test_a_workload_that_systemd_cannot_start_has_an_end(bed: Make) -> None:
    machine = bed("echo ran").boot()
    (machine.bed / f"broken/start-{WORKLOAD}").touch()
    machine.start()

    frame = frame_of(machine)

    assert (frame.result, frame.exit_code) == (Result.FAILED, 70)


def test_a_killed_runner_is_an_end(bed: Make) -> None:
    machine = begun(bed(WAITS).boot())
    machine.kill_group(WORKLOAD, signal.SIGKILL)

    frame = frame_of(machine)

    assert (frame.result, frame.exit_code) == (Result.FAILED, 137)
    assert frame.output.startswith("begun\n")


# -- orders ---


def test_stop_ends_the_workload_and_then_the_machine(bed: Make) -> None:
    machine = begun(bed(WAITS, ends_with_workload=False).boot())
    machine.metadata("tags/instance/puter:order", "stop")

    frame = frame_of(machine)

    assert (frame.result, frame.exit_code, frame.output) == (Result.STOPPED, 7, "begun\ntold\n")
    assert f"puter: order {NONCE} stop\n" in machine.console.read_text()


def test_a_workload_that_does_not_heed_sigterm_is_killed(bed: Make) -> None:
    machine = bed(STUBBORN)
    machine.quick(kill_after_s=1)
    begun(machine.boot())
    machine.metadata("tags/instance/puter:order", "stop")

    frame = frame_of(machine)

    assert (frame.result, frame.output) == (Result.STOPPED, "begun\n")


def test_stop_before_the_workload_has_begun(bed: Make) -> None:
    machine = bed("echo ran")
    machine.boot()
    config = machine.state / "workload.conf"
    config.rename(machine.state / "not-yet")
    machine.metadata("tags/instance/puter:order", "stop")
    machine.start()
    machine.until("the machine ends", lambda: machine.shutdowns)
    (machine.state / "not-yet").rename(config)
    machine.until("the frame is there", lambda: machine.frame)

    frame = frame_of(machine)

    assert (frame.result, frame.output) == (Result.STOPPED, "")


def test_stop_ends_a_machine_without_a_workload(bed: Make) -> None:
    machine = bed(None).boot()
    machine.start()
    machine.metadata("tags/instance/puter:order", "stop")

    machine.until("the machine ends", lambda: machine.shutdowns)


@pytest.mark.parametrize("order", ["", "go", "stop now", "STOP", "stop\nstop", "$(shutdown -h now)"])
def test_other_orders_are_nothing(bed: Make, order: str) -> None:
    machine = begun(bed(WAITS).boot())
    machine.metadata("tags/instance/puter:order", order)
    machine.looks(3)

    assert machine.shutdowns == []
    assert "order" not in machine.console.read_text()


def test_a_spot_notice_ends_the_workload_in_order(bed: Make) -> None:
    machine = begun(bed(WAITS).boot())
    machine.metadata("spot/instance-action", '{"action": "terminate", "time": "2026-11-27T05:00:00Z"}')

    frame = frame_of(machine)

    assert (frame.result, frame.exit_code, frame.reason) == (
        Result.INTERRUPTED,
        7,
        "EC2 takes the Spot machine back",
    )


def test_before_the_deadline_the_workload_is_ended(bed: Make) -> None:
    machine = bed(WAITS).boot()
    (machine.state / "born").write_text(str(int(time.time()) - 900))
    (machine.bed / "enabled/puter-deadline.timer").touch()
    begun(machine)
    (machine.state / "deadline").write_text(str(int(time.time()) + 100))

    frame = frame_of(machine)

    assert (frame.result, frame.exit_code) == (Result.TIMED_OUT, 7)


@pytest.mark.parametrize(("listed", "result"), [(True, Result.TIMED_OUT), (False, None)])
def test_the_deadlines_job_is_found_in_a_list_of_any_length(bed: Make, listed: bool, result: Result | None) -> None:
    machine = bed(WAITS).boot()
    when = "\tFri Nov 27 05:00:00 2026 a root\n"
    others = "".join(f"{at}{when}" for at in range(71, 80)) + f"17{when}" * 5_000
    (machine.bed / "at-jobs").write_text((f"7{when}" if listed else "") + others)
    (machine.state / "at-job").write_text("7\n")
    (machine.state / "born").write_text(str(int(time.time()) - 900))
    begun(machine)
    (machine.state / "deadline").write_text(str(int(time.time()) + 100))

    if result is not None:
        assert frame_of(machine).result is result
    else:
        machine.looks(3)
        assert not (machine.state / "workload.cause").exists()


@pytest.mark.parametrize("deadline", ["never", "in time", "cancelled"])
def test_a_deadline_that_is_far_or_does_not_hold_ends_nothing(bed: Make, deadline: str) -> None:
    machine = bed(WAITS).boot()
    (machine.state / "born").write_text(str(int(time.time())))
    (machine.bed / "enabled/puter-deadline.timer").touch()
    at = {"never": "never", "in time": str(int(time.time()) + 3_600), "cancelled": str(int(time.time()) + 1)}
    (machine.state / "deadline").write_text(at[deadline])
    if deadline == "cancelled":
        (machine.bed / "enabled/puter-deadline.timer").unlink()
    begun(machine)
    machine.looks(3)

    assert not (machine.state / "workload.cause").exists()


# -- what cannot be done ---


def test_on_a_full_disk_a_machine_is_stopped_and_no_extension_is_confirmed(bed: Make) -> None:
    machine = begun(bed(WAITS, ttl_s=3_600).boot())
    (machine.bed / "broken/disk").touch()
    machine.metadata("tags/instance/puter:expires-at", "2099-01-01T00:00:00Z")
    machine.looks(3)
    assert "order" not in machine.console.read_text()
    assert by_ssh(machine, "expires-at", "2099-01-01T00:00:00Z").returncode == 1

    machine.metadata("tags/instance/puter:order", "stop")

    frame = frame_of(machine)
    assert (frame.result, frame.exit_code, frame.reason) == (Result.STOPPED, 7, "its owner has ordered it")


def test_a_systemd_that_gives_no_answer_ends_no_workload(bed: Make) -> None:
    machine = begun(bed(WAITS).boot())
    (machine.bed / "broken/show").touch()
    machine.looks(3)
    machine.stop_agent()

    assert not (machine.state / "workload.end").exists()


@pytest.mark.parametrize(
    ("cause", "result", "code", "reason"),
    [
        ("stopped\nits owner has ordered it\n", Result.STOPPED, 255, "its machine was stopped before it began"),
        (None, Result.FAILED, 70, "did not run: systemd could not start it"),
    ],
)
def test_an_agent_that_ended_as_it_gave_a_workload_up_says_why(
    bed: Make, cause: str | None, result: Result, code: int, reason: str
) -> None:
    machine = bed(WAITS).boot()
    (machine.state / "workload.started").write_text("1795809875\n")
    if cause:
        (machine.state / "workload.cause").write_text(cause)
        (machine.state / "ending").touch()
    machine.start()

    frame = frame_of(machine)
    assert (frame.result, frame.exit_code, frame.reason) == (result, code, reason)


# -- what is killed ---


def test_a_restart_of_the_machine_interrupts_the_workload(bed: Make) -> None:
    machine = begun(bed(WAITS).boot())
    machine.close()
    (machine.state / "workload.boot").write_text("another boot\n")
    machine.start()

    frame = frame_of(machine)

    assert (frame.result, frame.reason) == (Result.INTERRUPTED, "the machine was restarted")
    assert frame.output == "begun\n"


@pytest.mark.parametrize("others", [0, 5_000], ids=["short list", "long list"])
@pytest.mark.parametrize(
    ("target", "result"),
    [("poweroff.target", "stopped"), ("reboot.target", "interrupted"), ("kexec.target", "interrupted")],
)
def test_a_shutdown_from_elsewhere_is_told(bed: Make, target: str, result: str, others: int) -> None:
    """systemd stops the workload, and after it the agent; it has a job for each unit that it stops."""
    machine = begun(bed(WAITS).boot())
    jobs = [f"1041 {target} start waiting\n", *("1042 puter-pre-reboot.target.mount stop waiting\n",) * others]
    (machine.bed / "jobs").write_text("".join(jobs))
    machine.kill_group(WORKLOAD, signal.SIGTERM)
    machine.until("it has ended", (machine.state / "workload.end").exists)
    machine.stop_agent()

    assert machine.frame is not None
    assert (machine.frame.result, machine.frame.exit_code) == (Result(result), 7)


def test_an_agent_that_is_stopped_while_the_workload_runs_says_nothing(bed: Make) -> None:
    machine = begun(bed(WAITS).boot())
    machine.stop_agent()

    assert not (machine.state / "workload.end").exists()
    machine.start()
    machine.metadata("tags/instance/puter:order", "stop")
    assert frame_of(machine).result is Result.STOPPED


# -- Spot launches: a tag says which member's workload is the machine's ---


def test_a_member_of_a_spot_launch_runs_its_own_workload_once_its_tag_names_it(bed: Make) -> None:
    machine = bed("echo mine; exit 3", after=2).boot()
    machine.metadata("tags/instance/puter:member", "unassigned")
    machine.start()
    machine.looks(3)
    assert machine.output == ""

    machine.metadata("tags/instance/puter:member", "2")
    frame = frame_of(machine)

    assert (frame.output, frame.exit_code, frame.member) == ("mine\n", 3, 2)
    assert not (machine.state / "members").exists()


@pytest.mark.parametrize("later", ["0", "unassigned", "", "7"])
def test_the_first_member_that_it_is_told_counts(bed: Make, later: str) -> None:
    machine = bed(WAITS, after=2).boot()
    machine.metadata("tags/instance/puter:member", "2")
    begun(machine)

    machine.metadata("tags/instance/puter:member", later)
    machine.looks(3)
    machine.metadata("tags/instance/puter:order", "stop")

    assert (frame_of(machine).output, frame_of(machine).member) == ("begun\ntold\n", 2)


@pytest.mark.parametrize("told", ["3", "unassigned", "2; touch broken", "-1"])
def test_who_is_no_member_with_a_workload_runs_none_and_obeys(bed: Make, told: str) -> None:
    machine = bed("echo mine", after=2).boot()
    machine.metadata("tags/instance/puter:member", told)
    machine.start()
    machine.looks(3)

    machine.metadata("tags/instance/puter:order", "stop")
    machine.until("the machine ends", lambda: machine.shutdowns)

    assert (machine.output, machine.frame) == ("", None)


# -- orders by ssh, for machines that cannot read their tags ---


def by_ssh(machine: AgentBed, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(machine.root / "usr/local/sbin/puter-agent"), *words]
    return subprocess.run(command, check=False, env=machine.env, capture_output=True, text=True, timeout=60)


def test_stop_by_ssh_ends_the_workload_and_then_the_machine(bed: Make) -> None:
    machine = begun(bed(WAITS).boot())

    assert by_ssh(machine, "stop").returncode == 0
    frame = frame_of(machine)

    assert (frame.result, frame.exit_code, frame.output) == (Result.STOPPED, 7, "begun\ntold\n")
    assert f"puter: order {NONCE} stop" in machine.console.read_text()


@pytest.mark.parametrize(("word", "deadline"), [("2099-01-01T00:00:00Z", 4_070_908_800), ("never", None)])
def test_another_deadline_by_ssh(bed: Make, word: str, deadline: int | None) -> None:
    machine = begun(bed(WAITS, ttl_s=3_600).boot())
    move = machine.root / "usr/local/sbin/puter-deadline"
    move.write_text('#!/bin/sh\necho moved "$@" >>"$BED/moved"\n')
    move.chmod(0o755)

    assert by_ssh(machine, "expires-at", word).returncode == 0

    assert (machine.state / "deadline").read_text().strip() == ("never" if deadline is None else str(deadline))
    assert (machine.bed / "moved").read_text() == "moved move\n"
    assert f"puter: order {NONCE} expires-at {word}" in machine.console.read_text()


@pytest.mark.parametrize("word", ["", "tomorrow", "2099-01-01", "$(reboot)"])
def test_a_time_by_ssh_that_is_none_changes_nothing(bed: Make, word: str) -> None:
    machine = begun(bed(WAITS).boot())

    refused = by_ssh(machine, "expires-at", *filter(None, [word]))

    assert refused.returncode == 2
    assert "write a time in UTC" in refused.stderr
    assert not (machine.state / "deadline").exists()


# bash reads this at its start (BASH_ENV): once, in a process of this role, it does DEED before the nth command.
STRUCK_AT = """\
set -o functrace
left=$AT
if [ "${1:-}" = "$ROLE" ] && mv "$ONCE" "$ONCE.used" 2>/dev/null; then
    trap "$DEED" DEBUG
fi
"""
# All of the agent's processes or all of the workload's unit are killed.
KILL = "[ $((left -= 1)) -ne 0 ] || kill -KILL 0"
# As systemd stops a unit: what is there, and what is begun from then on, gets SIGTERM.
STOP = "[ $((left -= 1)) -gt 0 ] || kill -TERM 0"


def hook(folder: Path, role: str, at: int, deed: str) -> dict[str, str]:
    """The environment of an agent, by which this is done before a command."""
    (folder / "struck-at.sh").write_text(STRUCK_AT)
    (folder / f"once-{at}").touch()
    there = {"BASH_ENV": str(folder / "struck-at.sh"), "ONCE": str(folder / f"once-{at}")}
    return there | {"ROLE": role, "AT": str(at), "DEED": deed}


def either_ended(machine: AgentBed, agent: subprocess.Popen[bytes]) -> bool:
    return agent.poll() is not None or bool(machine.shutdowns)


def struck_at(bed: Make, folder: Path, role: str, at: int, deed: str = KILL) -> tuple[Frame, list[str], bool]:
    """Of a machine whose agent or runner was struck: its frame, what it ran, whether the agent had ended."""
    ran = folder / f"ran-{at}"
    # Of a Spot launch: it has to learn first which member of the launch it is.
    machine = bed('echo ran >>"$RAN"; echo out; exit 3', env={"RAN": str(ran)}, after=2).boot()
    machine.metadata("tags/instance/puter:member", "2")
    agent = machine.start(**hook(folder, role, at, deed))
    machine.until("one of both ends", partial(either_ended, machine, agent))
    if was_killed := agent.poll() is not None:
        machine.stop_agent(told=False)  # as systemd does before it starts it again
        machine.start()
    frame = frame_of(machine)
    machine.close()
    return frame, ran.read_text().splitlines() if ran.exists() else [], was_killed


@pytest.mark.parametrize("first", range(4))
def test_an_agent_that_is_killed_at_any_command_runs_the_workload_once_and_loses_no_end(
    bed: Make, tmp_path: Path, first: int
) -> None:
    """In four parts, so that they run side by side."""
    at, was_killed = first + 1, True
    while was_killed:
        frame, ran, was_killed = struck_at(bed, tmp_path, "watch", at)
        assert (ran, frame.result, frame.exit_code, frame.output) == (["ran"], Result.FAILED, 3, "out\n"), at
        at += 4
    assert at > 50


def test_a_runner_that_is_killed_at_any_command_runs_the_workload_once_at_most_and_has_an_end(
    bed: Make, tmp_path: Path
) -> None:
    codes = []
    for at in range(1, 60):
        frame, ran, _ = struck_at(bed, tmp_path, "run", at)
        assert ran in ([], ["ran"]), at
        assert (frame.result, frame.exit_code in {3, 137}) == (Result.FAILED, True), at
        codes.append(frame.exit_code)
        if 137 in codes and codes[-3:] == [3, 3, 3]:
            break
    assert set(codes) == {3, 137}


def test_a_runner_that_is_told_to_stop_at_any_command_writes_down_how_the_workload_ended(
    bed: Make, tmp_path: Path
) -> None:
    """It ends as a machine that shuts down, as nothing has ordered it; or before, or after systemd says so."""
    ends = []
    for at in range(25, 90):
        frame, ran, _ = struck_at(bed, tmp_path, "run", at, STOP)
        ends.append((frame.result, frame.exit_code))
        by_itself = (frame.result, frame.exit_code, ran) == (Result.FAILED, 3, ["ran"])
        stopped = frame.result is Result.STOPPED and frame.exit_code in {255, 3}
        assert by_itself or stopped, (at, frame)
        if Result.STOPPED in dict(ends) and ends[-3:] == [(Result.FAILED, 3)] * 3:
            break
    assert {code for result, code in ends if result is Result.STOPPED} == {255, 3}


def test_an_agent_that_is_told_to_stop_at_any_command_says_how_the_workload_ended(bed: Make, tmp_path: Path) -> None:
    """At a shutdown it is the last that can; systemd has stopped the workload before."""
    stopped, at = True, 1
    while stopped:
        machine = bed("never begun").boot()
        (machine.state / "workload.started").write_text("1795809875\n")
        (machine.state / "workload.end").write_text(
            "result=failed\nexit_code=3\nstarted_at=1795809875\nfinished_at=1795809876\nreason=\n"
        )
        agent = machine.start(**hook(tmp_path, "watch", at, STOP))
        machine.until("one of both ends", partial(either_ended, machine, agent))
        stopped = agent.poll() is not None
        machine.stop_agent(told=not stopped)

        frame = machine.frame
        assert frame is not None, at
        assert (frame.result, frame.exit_code, frame.started_at) == (Result.FAILED, 3, 1_795_809_875), at
        at += 3
    assert at > 90
