"""The timeline of a tag, and its lines in the logs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from puter_client.cli.loglines import lines_of
from puter_client.cli.why import WORDS, timeline
from puter_client.contract.phase import Phase
from puter_client.contract.record import ErrorInfo, Event, EventKind, Record
from puter_client.contract.result import Result
from puter_client.view import View

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0
INSTANCE = "i-0123456789abcdef0"


def view(**fields: Any) -> View:
    known: dict[str, Any] = {"phase": Phase.RUNNING, "created_at": NOW, "changed_at": NOW, "instance_id": INSTANCE}
    return View(namespace="betty", tag="one", record=Record(namespace="betty", tag="one", **known | fields))


def event(name: str, **fields: Any) -> Event:
    return Event(at=NOW, event=name, generation=fields.pop("generation", 1), phase=Phase.LAUNCHING, **fields)


def told(one: View, events: list[Event], now: float = NOW) -> list[str]:
    return [row.text for row in timeline(one, events, now)]


class TestTimeline:
    def test_events_are_told_in_plain_words(self) -> None:
        (line, *_) = told(view(), [event("instance.launched")])
        assert line[10:] == "EC2 launched the machine"

    def test_an_event_that_is_not_known_is_shown_as_it_is_called(self) -> None:
        (line, *_) = told(view(), [event("puter.sublimed", reason="too hot")])
        assert line[10:] == "puter.sublimed: too hot"

    def test_request_ids_generations_and_details_stand_below(self) -> None:
        one = event("instance.launched", request_id="r-1", generation=2, detail={"intent": "abc"})
        assert told(view(), [one])[1].strip() == "generation 2, intent abc, request id r-1"

    def test_each_notice_stands_on_a_line_of_its_own(self) -> None:
        one = event("launch.begun", detail={"intent": "abc", "notice": "mind the gap\nthe door is shut"})
        assert [line.strip() for line in told(view(), [one])[1:4]] == [
            "intent abc",
            "note: mind the gap",
            "note: the door is shut",
        ]

    def test_at_the_end_stands_where_it_is_now_and_awss_error(self) -> None:
        error = ErrorInfo(code="Blocked", message="This account is blocked", request_id="r-2")
        lines = told(view(phase=Phase.FAILED, reason="This account is blocked", error=error), [], NOW + 60)
        assert lines[1:3] == [
            "now failed, for 1m: This account is blocked",
            "error Blocked: This account is blocked (request id r-2)",
        ]

    def test_a_workload_that_failed_shows_the_last_that_it_printed(self) -> None:
        fields: dict[str, Any] = {"result": Result.FAILED, "exit_code": 3, "log_tail": "Traceback:\n  x\nKeyError: 1"}
        lines = told(view(phase=Phase.TERMINATED, **fields), [])
        assert lines[2:-1] == [
            "its workload: failed, exit code 3",
            "the last that it printed (puter logs TAG prints all that is known):",
            "  | Traceback:",
            "  |   x",
            "  | KeyError: 1",
        ]

    def test_a_workload_that_succeeded_shows_no_more_than_that(self) -> None:
        lines = told(view(phase=Phase.TERMINATED, result=Result.SUCCEEDED, exit_code=0, log_tail="fine"), [])
        assert lines[2:-1] == ["its workload: succeeded, exit code 0"]

    def test_nothing_in_it_is_obeyed_by_a_terminal(self) -> None:
        evil = event("x\x1b[2J", reason="\x07", detail={"notice": "\x9b"}, request_id="\x1b")
        assert all(line.isprintable() for line in told(view(reason="\x1b"), [evil]))

    def test_every_kind_of_event_has_its_words(self) -> None:
        assert WORDS.keys() == set(EventKind)

    def test_every_event_that_workers_note_is_a_kind_of_event(self) -> None:
        sources = "".join(path.read_text() for path in (ROOT / "puter_worker").rglob("*.py"))
        noted = set(
            re.findall(r'\bevent ?=(?: ?None if .*? else)? ?"([a-z_.]+)"(?: if .*? else "([a-z_.]+)")?', sources)
        )
        names = {name for pair in noted for name in pair if name}
        members = set(re.findall(r"\bEventKind\.([A-Z_]+)", sources))

        assert names | members
        assert names <= set(EventKind)
        assert members <= EventKind.__members__.keys()

    @pytest.mark.parametrize("phase", [Phase.PENDING, Phase.RUNNING, Phase.TERMINATED, Phase.FAILED])
    def test_what_becomes_of_an_instance_is_a_kind_of_event(self, phase: Phase) -> None:
        assert event(f"instance.{phase.value}").kind is not None

    def test_an_event_of_a_newer_version_is_read_all_the_same(self) -> None:
        raw = msgspec.json.encode(event("puter.sublimed"))

        assert msgspec.json.decode(raw, type=Event).kind is None


class TestLog:
    @pytest.fixture
    def write(self, tmp_path: Path) -> Any:
        def written(name: str, *lines: dict[str, Any] | str) -> None:
            texts = [line if isinstance(line, str) else json.dumps({"event": "x.done", **line}) for line in lines]
            (tmp_path / name).write_text("".join(f"{text}\n" for text in texts))

        return written

    def test_a_line_of_the_key_is_found(self, write: Any, tmp_path: Path) -> None:
        write("worker.jsonl", {"namespace": "betty", "tag": "one", "why": "a"}, {"job_id": "betty/one", "why": "b"})
        assert [line.split()[-1] for line in lines_of(tmp_path, view(), [])] == ["why=a", "why=b"]

    @pytest.mark.parametrize(
        "line",
        [
            {"namespace": "other", "tag": "one"},
            {"namespace": "betty", "tag": "one-more"},
            {"namespace": "betty", "tag": "two", "note": "like one"},
            "not json, but of one",
            '["one"]',
        ],
    )
    def test_a_line_of_another_is_not(self, write: Any, tmp_path: Path, line: Any) -> None:
        write("worker.jsonl", line)
        assert lines_of(tmp_path, view(), []) == []

    @pytest.mark.parametrize(
        "field", [{"instance_ids": ["i-9", INSTANCE]}, {"intent": "abc"}, {"request_id": "r-1"}, {"batch": "b-1"}]
    )
    def test_a_line_with_an_id_of_its_launch_is_found(self, write: Any, tmp_path: Path, field: dict[str, Any]) -> None:
        write("worker.jsonl", field)
        events = [
            event("request.accepted", detail={"batch": "b-1"}),
            event("instance.launched", request_id="r-1", detail={"intent": "abc"}),
        ]
        assert len(lines_of(tmp_path, view(), events)) == 1

    def test_a_batch_of_the_client_is_found_by_its_tags(self, write: Any, tmp_path: Path) -> None:
        write("client.jsonl", {"namespace": "betty", "tags": ["zero", "one"]})
        assert len(lines_of(tmp_path, view(), [])) == 1

    def test_a_long_list_is_shortened(self, write: Any, tmp_path: Path) -> None:
        write("client.jsonl", {"namespace": "betty", "tags": [f"t-{n}" for n in range(99)] + ["one"]})
        assert lines_of(tmp_path, view(), [])[0].endswith('tags=["t-0","t-1","t-2","t-3","t-4"] +95 more')

    def test_rotated_files_are_read_and_lines_are_in_the_order_of_time(self, write: Any, tmp_path: Path) -> None:
        write("worker.jsonl", {"namespace": "betty", "tag": "one", "timestamp": "2026-01-03"})
        write("worker.jsonl.1", {"namespace": "betty", "tag": "one", "timestamp": "2026-01-01"})
        write("client.jsonl", {"namespace": "betty", "tag": "one", "timestamp": "2026-01-02"})
        assert [line[:10] for line in lines_of(tmp_path, view(), [])] == ["2026-01-01", "2026-01-02", "2026-01-03"]

    def test_what_a_terminal_would_obey_is_taken_out(self, write: Any, tmp_path: Path) -> None:
        write("worker.jsonl", {"namespace": "betty", "tag": "one", "event": "\x1b[2J", "k\x1b": "\x07", "l": ["\x9b"]})
        (line,) = lines_of(tmp_path, view(), [])
        assert line.isprintable()
