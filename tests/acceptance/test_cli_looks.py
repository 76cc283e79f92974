"""Commands that look: status, wait, batches, why."""

from __future__ import annotations

import subprocess

import pytest

from tests.acceptance.cli_world import PUTER, CliWorld


class TestStatus:
    def test_no_line_is_wider_than_the_terminal(self, betty: CliWorld) -> None:
        betty.up("w" * 60)
        ran = betty.puter("status", COLUMNS="80")
        assert [line for line in ran.out.splitlines() if len(line) > 80] == []

    def test_a_tag_that_is_not_known_is_exit_code_1(self, betty: CliWorld) -> None:
        betty.up("known")
        ran = betty.puter("status", "known", "stranger")
        assert (ran.code, ran.err) == (1, "puter: stranger is not known in namespace betty\n")
        assert "known  running" in ran.out

    def test_a_failure_is_exit_code_1_only_when_requested(self, betty: CliWorld) -> None:
        betty.puter("up", "broken", "--subnet", "subnet-00000000")
        assert betty.puter("status", "broken").code == 0
        assert betty.puter("status", "broken", "--exit-status").code == 1

    def test_the_last_batch_is_meant_by_last(self, betty: CliWorld) -> None:
        betty.puter("submit", "--tag", "last-{i}", "--count", "2", "-n", "lastly")
        ran = betty.puter("status", "--batch", "last", "--json", "-n", "lastly")
        assert [told["tag"] for told in ran.objects()] == ["last-0", "last-1"]

    def test_an_unknown_batch_is_exit_code_1(self, betty: CliWorld) -> None:
        betty.up("some")
        ran = betty.puter("status", "--batch", "b-nobodys")
        assert ran.code == 1
        assert "batch 'b-nobodys' is not known in namespace betty" in ran.err

    def test_a_reader_that_goes_away_is_no_error(self, betty: CliWorld) -> None:
        betty.up("piped")
        command = subprocess.Popen(
            [*PUTER, "status", "--json", "--watch"],
            env=betty.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert command.stdout is not None
        assert command.stderr is not None
        with command:
            assert command.stdout.readline().startswith("{")
            command.stdout.close()
            assert command.stderr.read() == ""
        assert command.returncode == 141


class TestWait:
    def test_what_runs_is_not_waited_for(self, betty: CliWorld) -> None:
        betty.up("there")
        ran = betty.puter("wait", "there", "--json")
        assert (ran.code, ran.objects()[0]["phase"]) == (0, "running")

    def test_out_of_time_is_exit_code_4_and_says_how_to_come_back(self, betty: CliWorld) -> None:
        betty.up("long")
        ran = betty.puter("wait", "long", "--for", "terminated", "--timeout", "1s")
        assert ran.code == 4
        assert "timed out: 1 of 1 not terminated yet, their requests continue" in ran.err
        assert "resume with:\n  puter wait long --for terminated\n  puter why long\n" in ran.err

    def test_a_stranger_is_not_waited_for(self, betty: CliWorld) -> None:
        betty.up("some")
        ran = betty.puter("wait", "stranger")
        assert (ran.code, ran.err) == (1, "puter: stranger is not known in namespace betty\n")

    def test_where_all_has_ended_there_is_nothing_to_wait_for(self, betty: CliWorld) -> None:
        betty.up("some")
        ran = betty.puter("wait", "-n", "empty-room")
        assert (ran.code, ran.err) == (0, "puter: nothing to wait for: everything has ended\n")


class TestWhy:
    def test_the_timeline_tells_from_the_request_to_the_machine(self, betty: CliWorld) -> None:
        told = betty.up("story")
        ran = betty.puter("why", "story")
        events = [line[10:] for line in ran.out.splitlines() if line[2:3] == ":"]
        assert events[0].startswith("a worker took the request")
        assert "the machine is running" in events
        assert told["instance_id"] in ran.out
        assert "request id " in ran.out

    def test_the_log_tells_of_client_and_worker(self, betty: CliWorld) -> None:
        betty.up("logs")
        ran = betty.puter("why", "logs", "--log")
        assert "requests.submitted" in ran.out
        assert "RunInstances" in ran.out

    def test_json_is_an_object_an_event(self, betty: CliWorld) -> None:
        betty.up("events")
        events = betty.puter("why", "events", "--json").objects()
        assert events[0]["event"] == "request.accepted"
        assert {event["phase"] for event in events} >= {"queued", "running"}

    def test_a_stranger_has_no_story(self, betty: CliWorld) -> None:
        betty.up("some")
        assert betty.puter("why", "stranger").code == 1


def test_batches_are_listed_the_newest_last(betty: CliWorld) -> None:
    for tag in ("a", "b"):
        betty.puter("submit", "--tag", tag, "-n", "lists")
    told = betty.puter("batches", "--json", "-n", "lists").objects()
    assert [batch["size"] for batch in told] == [1, 1]
    assert told[0]["created_at"] < told[1]["created_at"]
    assert betty.puter("batches", "-n", "lists").out.splitlines()[2].startswith(told[1]["batch_id"])


@pytest.mark.parametrize("words", [["status"], ["batches"], ["ssh-config"], ["why", "x"]])
def test_a_redis_that_is_not_there_is_one_line_without_its_password(fresh: CliWorld, words: list[str]) -> None:
    ran = fresh.puter(*words, PUTER_REDIS_URL="redis://me:hunter2@127.0.0.1:1")
    assert ran.code == 3
    assert ran.err.count("\n") == 1
    assert "hunter2" not in ran.err
