"""What there is of a workload's output, and how much of it is shown. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from puter_client.cli.terminal import plain
from puter_client.contract.outcome import Outcome
from puter_client.contract.output import Output
from puter_client.contract.phase import ENDED, Phase
from puter_client.contract.plain import REPLACEMENT
from puter_client.contract.record import Record
from puter_client.view import View

MOST_NAMED = 3
_RAN_NOTHING = frozenset({Outcome.CONFLICT, Outcome.REFUSED, Outcome.CANCELLED})


def record_of_run(view: View) -> Record | None:
    """The record, if it is about the run that the view is about: a batch's request may have led to none."""
    row = view.row
    if row is None or view.record is None:
        return view.record
    later = row.request_number is not None and view.record.request_number > row.request_number
    return None if later or row.outcome in _RAN_NOTHING or row.outcome is None else view.record


def is_over(view: View) -> bool:
    """Whether nothing more is to come: the workload's end is known, or there was none."""
    if view.is_open or not view.is_taken:
        return False
    record = record_of_run(view)
    if record is None or record.result is not None:
        return True
    return record.phase in ENDED and (record.phase is not Phase.TERMINATED or not record.has_workload)


def why_nothing(view: View) -> str:
    """Why nothing is known of what a run that is over has printed; without its tag."""
    record = record_of_run(view)
    if record is None and view.record is not None and view.outcome not in _RAN_NOTHING:
        return "its tag was requested again since: name the tag itself for the later output"
    if record is not None and record.instance_id and not record.has_workload:
        return "it had no workload (--run), so there is no output"
    reason = plain(view.reason or "no reason is known")
    return reason if record is not None and record.result else f"{view.state}: {reason}"


def last_of(text: str, lines: int | None) -> str:
    """The last lines of a text; None is all of it."""
    if lines is None:
        return text
    if lines == 0:
        return ""
    end = "\n" if text.endswith("\n") else ""
    return "\n".join(text.removesuffix("\n").split("\n")[-lines:]) + end


def known_bytes(output: Output) -> int:
    """How many bytes of an output are known. What was no UTF-8 counts as one byte a character."""
    return _bytes(output.text)


def part_of(known: int, total: int) -> str:
    """Which part of an output is known that is not known whole; both are numbers of bytes."""
    return f"only the last {known:,} of {total:,} bytes that it has printed are known"


def rest_of(output: Output, at: int) -> tuple[int, str]:
    """What comes behind the first `at` bytes of an output, and how many bytes are missing before that."""
    place, left = len(output.text), output.total_bytes - at
    while place > 0 and left > 0:
        place -= 1
        left -= _bytes(output.text[place])
    return max(0, left), output.text[place:]


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass")) - text.count(REPLACEMENT) * (len(REPLACEMENT.encode()) - 1)


def beyond(before: str, now: str) -> str:
    """The lines of a console (whole ones) that were not there before; its first lines may have gone meanwhile."""
    old, new = before.split("\n")[:-1], now.split("\n")[:-1]
    # The first line of what is there now may be cut.
    for first in range(len(old)):
        both = old[first:]
        if both == new[: len(both)] or (len(both) > 1 and both[1:] == new[1 : len(both)]):
            return "".join(f"{line}\n" for line in new[len(both) :])
    return now


def named(tags: Sequence[str]) -> str:
    """A few tags by name, and the number of the others."""
    names = ", ".join(map(plain, tags[:MOST_NAMED]))
    return names + (f" and {len(tags) - MOST_NAMED:,} more" if len(tags) > MOST_NAMED else "")
