"""What a command shows of one tag: its row in the requested batch, joined with the key's record."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from puter_client.contract.batch import BatchRow
from puter_client.contract.duration import format_duration
from puter_client.contract.order import Order, OrderKind
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import ENDED, LIVE, Phase
from puter_client.contract.record import Record
from puter_client.contract.result import Result
from puter_client.contract.spec import KEY_FIELDS
from puter_client.ssh_commands import rsync_command, ssh_command

WAITING_FOR_WORKER = "waiting for a worker to take the request"
WAITING_FOR_EC2 = "waiting for EC2 to confirm the machine of this name"
# Outcomes that launch nothing: the tag's record is about another request.
_NOTHING_LAUNCHED = frozenset({Outcome.CONFLICT, Outcome.REFUSED, Outcome.SKIPPED, Outcome.CANCELLED})
_REFUSED = frozenset({Outcome.CONFLICT, Outcome.REFUSED})
_LATEST_ISO_S = 253_402_300_799.0  # the last second of the year 9999


class WaitFor(StrEnum):
    """What a puter must have reached before a command returns; `finished`: its workload has ended."""

    QUEUED = "queued"
    LAUNCHED = "launched"
    RUNNING = "running"
    TERMINATED = "terminated"
    FINISHED = "finished"


class WaitState(StrEnum):
    """Whether a wait for one tag is over, and how."""

    WAITING = "waiting"
    REACHED = "reached"
    FAILED = "failed"


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One tag as a command sees it.

    Attributes:
        namespace: the key's namespace.
        tag: the key's tag.
        record: the key's record, if a worker has written one.
        row: the tag's row in the batch; None without a batch, or if no worker has taken the request yet.
        batch_id: the batch that the command is about, if any.
        stage_reason: why the record is not fresher, and what to do; None if it is as fresh as it should be.
    """

    namespace: str
    tag: str
    record: Record | None = None
    row: BatchRow | None = None
    batch_id: str | None = None
    stage_reason: str | None = None

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of the batch's request; None while it is open, and without a batch."""
        return self.row.outcome if self.row else None

    @property
    def phase(self) -> Phase:
        """The key's phase; `queued` until a worker has taken the request."""
        return self.record.phase if self.record else Phase.QUEUED

    @property
    def is_taken(self) -> bool:
        """Whether a worker has taken the request; before that, a record is about an earlier request."""
        return self.row is not None if self.batch_id is not None else self.record is not None

    @property
    def is_open(self) -> bool:
        """Whether the batch's request is taken and has no outcome yet, since a worker compares the record with EC2."""
        return self.row is not None and self.row.outcome is None

    @property
    def launches_nothing(self) -> bool:
        """Whether the batch's request has led to no machine, so that the record is about another request."""
        return self.outcome in _NOTHING_LAUNCHED

    @property
    def state(self) -> str:
        """What has become of the request, in a word: an outcome that launches nothing, a result, or else a phase."""
        if not self.is_taken:
            return Phase.QUEUED.value
        if self.launches_nothing and self.row and self.row.outcome:
            return self.row.outcome.value
        if self.record is not None and self.record.result and self.record.phase is Phase.TERMINATED:
            return self.record.result.value
        return self.phase.value

    @property
    def has_failed(self) -> bool:
        """Whether the request was refused, its machine failed, or its workload did not succeed."""
        if not self.is_taken or self.is_open or self.outcome is Outcome.CANCELLED:
            return False
        if self.outcome in _REFUSED:
            return True
        record = self.record
        return record is not None and (record.phase is Phase.FAILED or record.result not in (None, Result.SUCCEEDED))

    @property
    def reason(self) -> str | None:
        """Why it waits, or how it ended, in plain words."""
        return self._reason(self.estimate)

    @property
    def reason_without_estimate(self) -> str | None:
        """`reason`, as all have it that wait for the same."""
        return self._reason(None)

    def _reason(self, estimate: str | None) -> str | None:
        if self.row and self.row.message:
            return self.row.message
        if self.record is None or not self.is_taken:
            return WAITING_FOR_WORKER
        reason = self.record.reason or self._told_to_end
        if self.is_open:
            reason = reason or WAITING_FOR_EC2
        if reason and estimate:
            reason = f"{reason}, {estimate}"
        return f"{reason}; {self.stage_reason}" if reason and self.stage_reason else reason or self.stage_reason

    @property
    def is_told_to_end(self) -> bool:
        """Whether the machine still runs, or is being launched, and its owner has ordered its end."""
        record = self.record
        if record is None or record.phase in ENDED:
            return False
        return record.order is not None and record.order.kind is OrderKind.STOP

    @property
    def _told_to_end(self) -> str | None:
        order = self.record.order if self.record else None
        if order is None or not self.is_told_to_end:
            return None
        return f"told to end: {order.reason or f'ordered by {order.user}'}"

    @property
    def estimate(self) -> str | None:
        """How long it still waits, if that is known: `about 2m`; the end of `reason`."""
        told = self.is_taken and not (self.row and self.row.message)
        if not told or self.record is None or self.record.estimate_s is None:
            return None
        return f"about {format_duration(self.record.estimate_s)}"

    @property
    def has_other_key(self) -> bool:
        """Whether the machine exists, and was launched with another key than the request's."""
        return bool(self.row and KEY_FIELDS & set(self.row.not_applied))

    @property
    def record_to_reach(self) -> Record | None:
        """The record, without a private key that does not open the machine."""
        return self.record.replace(private_key_path=None) if self.record and self.has_other_key else self.record

    def wait_state(self, wait: WaitFor) -> WaitState:
        """Whether the tag has reached `wait`, or cannot reach it any more."""
        if self.batch_id is not None:
            if self.row is None or self.row.outcome is None:
                return WaitState.WAITING
            if self.row.outcome in _NOTHING_LAUNCHED:
                return WaitState.FAILED
            if self.row.outcome is Outcome.DONE or wait is WaitFor.QUEUED:
                return WaitState.REACHED
        record = self.record
        if record is None:
            return WaitState.WAITING
        if self.row and self.row.request_number is not None and record.request_number > self.row.request_number:
            return WaitState.REACHED  # a later request uses the key: this request's machine has ended
        if record.phase in (Phase.FAILED, Phase.CANCELLED):
            return WaitState.FAILED
        if wait is WaitFor.FINISHED:
            return _finished(record)
        reached = {
            WaitFor.QUEUED: True,
            WaitFor.LAUNCHED: record.instance_id is not None,
            # A machine that has ended has run if it was seen to, or if it ended itself.
            WaitFor.RUNNING: record.phase is Phase.RUNNING or record.running_at is not None,
            WaitFor.TERMINATED: record.phase in ENDED,
        }[wait]
        if reached:
            return WaitState.REACHED
        return WaitState.FAILED if record.phase in ENDED else WaitState.WAITING

    def to_json(self) -> dict[str, Any]:
        """The JSON fields that programs may rely on; times are UTC, ISO 8601."""
        record = self.record
        fields: dict[str, Any] = {
            "namespace": self.namespace,
            "tag": self.tag,
            "phase": self.phase.value,
            "reason": self.reason,
            "stage_reason": self.stage_reason,
            "outcome": self.outcome.value if self.outcome else None,
        }
        for name in _PLAIN:
            fields[name] = msgspec.to_builtins(getattr(record, name)) if record else None
        for name in _TIMES:
            fields[name] = iso(getattr(record, name)) if record else None
        reached = self.record_to_reach
        fields["ssh"] = ssh_command(reached) if reached and reached.phase in LIVE else None
        fields["rsync"] = rsync_command(reached) if reached and reached.phase in LIVE else None
        fields["order"] = _order(record.order) if record and record.order else None
        fields["applied"] = list(self.row.applied) if self.row else []
        fields["not_applied"] = list(self.row.not_applied) if self.row else []
        if self.batch_id is not None:
            fields["batch_id"] = self.batch_id
        return fields


def _order(order: Order) -> dict[str, Any]:
    return {
        "kind": order.kind.value,
        "user": order.user,
        "reason": order.reason,
        "problem": order.problem,
        **{name: iso(getattr(order, name)) for name in ("given_at", "expires_at", "sent_at", "confirmed_at")},
    }


def _finished(record: Record) -> WaitState:
    """Whether the workload has ended well; without a workload, whether the machine has ended."""
    if record.result is not None:
        return WaitState.REACHED if record.result is Result.SUCCEEDED else WaitState.FAILED
    if record.has_workload or record.phase not in ENDED:
        return WaitState.WAITING
    return WaitState.REACHED


_PLAIN = (
    "generation",
    "batch_id",
    "owner",
    "instance_id",
    "instance_type",
    "spot",
    "member",
    "ami_id",
    "os",
    "account_id",
    "profile",
    "region",
    "availability_zone",
    "public_dns_name",
    "public_ip",
    "private_ip",
    "ssh_user",
    "key_name",
    "private_key_path",
    "ttl_s",
    "result",
    "exit_code",
    "log_tail",
    "attempts",
    "labelled",
    "overdue",
    "spec_digest",
    "error",
)
_TIMES = (
    "created_at",
    "launched_at",
    "running_at",
    "expires_at",
    "ended_at",
    "finished_at",
    "observed_at",
)


def iso(at: float | None) -> str | None:
    """A time of a record in UTC, ISO 8601, with milliseconds; None if there is none, or it cannot be a time."""
    if at is None or not 0 <= at <= _LATEST_ISO_S:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
