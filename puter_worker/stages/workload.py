"""How workloads ended: what follows from an end frame, from EC2's word on a machine's end, and from neither. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from puter_client.contract.order import Order, OrderKind
from puter_client.contract.phase import LIVE, Phase
from puter_client.contract.record import Record
from puter_client.contract.result import Result
from puter_client.contract.spec import Spec
from puter_worker.ec2.frame import Frame
from puter_worker.stages.facts import SHUT_ITSELF_DOWN

# Where EC2 itself names what ended the machine, nothing but a workload that had just ended before can be missed.
READS_OF_KNOWN_ENDS = 4
TAIL_LINES = 10
TAIL_CHARACTERS = 1_000

_INTERRUPTED = frozenset(
    {
        "Server.SpotInstanceTermination",
        "Server.SpotInstanceShutdown",
        "Server.InternalError",
        "Server.ScheduledStop",
        "Client.InstanceInitiatedRestart",
    }
)
_BY_A_PERSON = frozenset({"Client.UserInitiatedShutdown", "Client.UserInitiatedHibernate"})


def next_read_s(record: Record, reads_s: Sequence[float]) -> float | None:
    """In how many seconds the console of an ended machine is read next; None if it is not read any more.

    `reads_s`: at how many seconds after the end it is read. Reads are counted: by the time since the end, a clock that
    is set would end them early, or repeat them.
    """
    known = record.end_code in _INTERRUPTED or record.end_code in _BY_A_PERSON
    due_s = reads_s[:READS_OF_KNOWN_ENDS] if known else reads_s
    done = record.console_reads + 1
    return due_s[done] - due_s[done - 1] if done < len(due_s) else None


def with_frame(record: Record, frame: Frame, now: float) -> Record:
    """The record of a machine whose console has this frame."""
    result, why = frame.result, frame.reason
    if result is Result.STOPPED and record.end_code in _INTERRUPTED:
        # The machine was shut down before its agent knew why.
        result, why = Result.INTERRUPTED, _interrupted(record)
    elif result is Result.STOPPED and record.order is not None:
        why = record.order.reason or why
    return record.replace(
        result=result,
        exit_code=frame.exit_code,
        finished_at=_within(frame.finished_at, record, now),
        log_tail=_tail(frame.output),
        reason=_reason(result, frame.exit_code, why),
        changed_at=now,
    )


def without_frame(record: Record, now: float) -> Record:
    """The record of an ended machine whose console does not say how its workload ended."""
    if record.end_code in _INTERRUPTED:
        result, why = Result.INTERRUPTED, _interrupted(record)
    elif record.order is not None and record.order.kind is OrderKind.STOP and _may_have_stopped(record, record.order):
        result, why = Result.STOPPED, record.order.reason or f"ordered by {record.order.user}"
    elif record.end_code in _BY_A_PERSON:
        result, why = Result.STOPPED, "somebody has terminated its machine in EC2"
    else:
        result, why = Result.LOST, "its machine has ended, and its console does not say how the workload did"
    return record.replace(result=result, finished_at=record.ended_at, reason=_reason(result, None, why), changed_at=now)


def _may_have_stopped(record: Record, order: Order) -> bool:
    """Whether an order to stop may be why the machine has ended: its tag may be written though no answer said so."""
    return order.sent_at is not None or record.end_code == SHUT_ITSELF_DOWN


def unread(record: Record, why: str, now: float) -> Record:
    """The record of an ended machine whose console cannot be read."""
    return record.replace(
        result=Result.LOST,
        finished_at=record.ended_at,
        reason=_reason(Result.LOST, None, f"its console cannot be read: {why}"),
        changed_at=now,
    )


def waits_for_its_end(record: Record, in_s: float, now: float) -> Record:
    """The record of an ended machine whose console is read again."""
    reason = f"its machine has ended; how the workload did is not known yet, looking again in {max(1, round(in_s))} s"
    changed_at = now if record.reason != reason else record.changed_at
    return record.replace(reason=reason, console_reads=record.console_reads + 1, changed_at=changed_at)


def is_retried(record: Record, spec: Spec) -> bool:
    """Whether the workload of this ended machine is run again."""
    if record.phase is not Phase.TERMINATED or record.result is None or len(record.attempts) >= spec.retries:
        return False
    if record.order is not None and record.order.kind is OrderKind.STOP:
        return False
    if record.result in {Result.INTERRUPTED, Result.LOST}:
        return True
    if record.result in {Result.SUCCEEDED, Result.STOPPED}:
        return False
    return record.result.value in spec.retry_on or str(record.exit_code) in spec.retry_on


def is_wanted(record: Record | None, generation: int) -> bool:
    """Whether the console of this generation's machine is still to be read."""
    if record is None or record.generation != generation or not record.has_workload or record.result is not None:
        return False
    return record.phase is Phase.TERMINATED or (record.phase in LIVE and not record.ends_with_workload)


def _interrupted(record: Record) -> str:
    if record.end_code == "Server.SpotInstanceTermination":
        return "EC2 has taken the Spot machine back"
    return f"EC2 has ended its machine ({record.end_code})"


def _reason(result: Result, exit_code: int | None, why: str | None) -> str:
    code = f", exit code {exit_code}" if exit_code and result is not Result.LOST else ""
    return f"workload {result.value.replace('_', ' ')}{code}{f': {why}' if why else ''}"


def _within(at: float | None, record: Record, now: float) -> float:
    """A time by the machine's clock, within what is known of the machine's life."""
    latest = record.ended_at or now
    return latest if at is None else min(max(at, record.launched_at or at), latest)


def _tail(output: str) -> str | None:
    lines = output.rstrip("\n").split("\n")[-TAIL_LINES:]
    return "\n".join(lines)[-TAIL_CHARACTERS:] or None
