"""What a command shows of one tag: the row of the batch requested, joined with the key's record."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from puter_client.contract.batch import BatchRow
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import ENDED, LIVE, Phase
from puter_client.contract.record import Record
from puter_client.ssh_commands import SSH_USER, rsync_command, ssh_command

WAITING_FOR_WORKER = "waiting for a worker to take it"
# Outcomes that launch nothing: what the tag's record says is another request's.
_NOT_GRANTED = frozenset({Outcome.CONFLICT, Outcome.REFUSED, Outcome.SKIPPED, Outcome.CANCELLED})


class WaitFor(StrEnum):
    """How far a puter must have come for a command to return."""

    QUEUED = "queued"
    LAUNCHED = "launched"
    RUNNING = "running"
    TERMINATED = "terminated"


class WaitState(StrEnum):
    """Whether waiting has an end."""

    WAITING = "waiting"
    REACHED = "reached"
    FAILED = "failed"


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One tag as a command sees it.

    Attributes:
        namespace: of the key.
        tag: of the key.
        record: the key's record, if a worker has written one.
        row: the row of the batch requested; None if no batch was requested, or no worker has taken the request.
        batch_id: the batch requested.
    """

    namespace: str
    tag: str
    record: Record | None = None
    row: BatchRow | None = None
    batch_id: str | None = None

    @property
    def outcome(self) -> Outcome | None:
        """What became of the batch's request; None while that is open, or no batch was requested."""
        return self.row.outcome if self.row else None

    @property
    def phase(self) -> Phase:
        """Where the key stands; `queued` until a worker has taken the request."""
        return self.record.phase if self.record else Phase.QUEUED

    @property
    def reason(self) -> str | None:
        """Why it waits, or how it ended, in plain words."""
        if self.row and self.row.message:
            return self.row.message
        if self.record is None or (self.batch_id and self.row is None):
            return WAITING_FOR_WORKER
        return self.record.reason

    def wait_state(self, wait: WaitFor) -> WaitState:
        """Whether what is waited for has come, or cannot come any more."""
        if self.batch_id is not None:
            if self.row is None or self.row.outcome is None:
                return WaitState.WAITING
            if self.row.outcome in _NOT_GRANTED:
                return WaitState.FAILED
            if self.row.outcome is Outcome.DONE or wait is WaitFor.QUEUED:
                return WaitState.REACHED
        record = self.record
        if record is None:
            return WaitState.WAITING
        if self.row and self.row.request_number is not None and record.request_number > self.row.request_number:
            return WaitState.REACHED  # a later request has taken the key on: this one's machine came and went
        if record.phase in (Phase.FAILED, Phase.CANCELLED):
            return WaitState.FAILED
        reached = {
            WaitFor.QUEUED: True,
            WaitFor.LAUNCHED: record.instance_id is not None,
            WaitFor.RUNNING: record.phase is Phase.RUNNING,
            WaitFor.TERMINATED: record.phase in ENDED,
        }[wait]
        # What has ended has been all it will ever be.
        return WaitState.REACHED if reached or record.phase in ENDED else WaitState.WAITING

    def to_json(self) -> dict[str, Any]:
        """The fields that programs may rely on; times in UTC, ISO 8601."""
        record = self.record
        fields: dict[str, Any] = {
            "namespace": self.namespace,
            "tag": self.tag,
            "phase": self.phase.value,
            "reason": self.reason,
            "outcome": self.outcome.value if self.outcome else None,
        }
        for name in _PLAIN:
            fields[name] = msgspec.to_builtins(getattr(record, name)) if record else None
        for name in _TIMES:
            fields[name] = iso(getattr(record, name)) if record else None
        fields["ssh_user"] = SSH_USER
        fields["ssh"] = ssh_command(record) if record and record.phase in LIVE else None
        fields["rsync"] = rsync_command(record) if record and record.phase in LIVE else None
        if self.batch_id is not None:
            fields["batch_id"] = self.batch_id
        return fields


_PLAIN = (
    "generation",
    "batch_id",
    "owner",
    "instance_id",
    "instance_type",
    "ami_id",
    "os",
    "account_id",
    "profile",
    "region",
    "availability_zone",
    "public_dns_name",
    "public_ip",
    "private_ip",
    "key_name",
    "private_key_path",
    "ttl_s",
    "result",
    "exit_code",
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
    """A time of a record as people and programs read it."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
