"""Puter's part and the user's, for one machine or for all machines of one launch."""

from __future__ import annotations

import gzip
import shlex
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import ClassVar

import msgspec

from puter_client.contract.errors import PuterError
from puter_client.contract.fields import USER_DATA_LIMIT_BYTES
from puter_client.contract.key import PuterKey
from puter_client.contract.os_image import Os
from puter_client.contract.userdata import PUTERS, Part, parts_of
from puter_worker.ec2.userdata.mime import render

_TASK = """\
#!/bin/sh
# Puter: what this machine is to do, as it was given.
cd "${{PUTER_ROOT:-}}/var/lib/puter" || exit 1
[ ! -e workload.started ] || exit 0
umask 077
printf %s {run} >workload.run
{env} >workload.env
exec "${{PUTER_ROOT:-}}/usr/local/sbin/puter-workload" start {key} {generation}
"""


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """What all machines of one launch share.

    Attributes:
        os: says by which commands software is installed.
        ttl_s: seconds from the first boot until a machine ends itself; None is never.
    """

    os: Os
    ttl_s: int | None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine's own.

    Attributes:
        key: whose machine it is.
        generation: which instance of that key.
        run: the workload, a shell command; None is none.
        env: the workload's environment; names as a shell knows them.
        user_data: the user's own part, of a form that check_user_data takes.
    """

    key: PuterKey
    generation: int
    run: str | None
    env: dict[str, str]
    user_data: str | None

    def __repr__(self) -> str:
        # run, env and user data may carry secrets, and a repr ends in logs.
        return f"Machine(key={str(self.key)!r}, generation={self.generation})"


class UserDataTooLarge(PuterError):
    """EC2 would not take it: more than 16,384 bytes before base64, gzipped as well.

    Attributes:
        size: its bytes in the smaller form.
        excess: how many of them are too many.
    """

    code: ClassVar[str] = "UserDataTooLarge"
    exit_code: ClassVar[int] = 2

    def __init__(self, size: int, machines: Sequence[Machine]) -> None:
        self.size = size
        self.excess = size - USER_DATA_LIMIT_BYTES
        if len(machines) == 1:
            whose = str(machines[0].key)
            remedy = f"shorten {_largest_field(machines[0])}, or fetch it from within the machine"
        else:
            whose, remedy = f"{len(machines)} machines", "launch them in smaller groups"
        super().__init__(
            f"user data of {whose} has {size:,} bytes gzipped, {self.excess:,} more than the "
            f"{USER_DATA_LIMIT_BYTES:,} that EC2 takes: {remedy}"
        )


def compose(boot: Boot, machines: Sequence[Machine]) -> bytes:
    """User data for RunInstances, before base64; the same arguments give the same bytes.

    For several machines, each member's own parts bear cloud-init's Launch-Index header: its place in `machines`.
    A caller that groups needs no sizes beforehand: it halves a group for which this raises UserDataTooLarge.

    Args:
        boot: what they share.
        machines: at least one, in the order of their launch indexes.

    Raises:
        UserDataTooLarge: it does not fit into what EC2 takes.
        InvalidInput: somebody's user_data cannot be used, see check_user_data.
    """
    if not machines:
        raise ValueError("no machines")
    plain = render([*_common(boot, machines), *_members(machines)])
    if len(machines) == 1 and len(plain) <= USER_DATA_LIMIT_BYTES:
        return plain
    smaller = min(plain, gzip.compress(plain, mtime=0), key=len)
    if len(smaller) > USER_DATA_LIMIT_BYTES:
        raise UserDataTooLarge(len(smaller), machines)
    return smaller


def _common(boot: Boot, machines: Sequence[Machine]) -> list[Part]:
    ttl = "" if boot.ttl_s is None else str(boot.ttl_s)
    deadline = _script("deadline.sh").replace("@ttl_s@", ttl)
    parts = [Part(content_type="text/cloud-boothook", body=deadline.encode(), filename=f"{PUTERS}0-deadline")]
    if boot.ttl_s is not None:
        parts.append(_shell("1-at", _script("at.sh").replace("@os@", boot.os)))
    parts.append(_shell("2-docker", _script("docker.sh").replace("@os@", boot.os)))
    if any(machine.run is not None for machine in machines):
        parts.append(_shell("3-workload", _script("workload.sh")))
    return parts


def _members(machines: Sequence[Machine]) -> list[Part]:
    parts: list[Part] = []
    for index, machine in enumerate(machines):
        if machine.run is not None:
            parts.append(_for_index(_task(machine, machine.run), index, machines))
    # What all have needs no index, and is there once instead of a hundred times.
    if len({machine.user_data for machine in machines}) == 1:
        return [*parts, *_own(machines[0])]
    for index, machine in enumerate(machines):
        parts += [_for_index(part, index, machines) for part in _own(machine)]
    return parts


def _own(machine: Machine) -> tuple[Part, ...]:
    return () if machine.user_data is None else parts_of(machine.user_data)


def _for_index(part: Part, index: int, machines: Sequence[Machine]) -> Part:
    return part if len(machines) == 1 else msgspec.structs.replace(part, launch_index=index)


def _task(machine: Machine, run: str) -> Part:
    pairs = [shlex.quote(f"{name}={value}") for name, value in sorted(machine.env.items())]
    script = _TASK.format(
        run=shlex.quote(run),
        env=" ".join([r"printf '%s\0'", *pairs]) if pairs else ":",
        key=shlex.quote(str(machine.key)),
        generation=machine.generation,
    )
    return _shell("4-task", script)


def _shell(name: str, script: str) -> Part:
    return Part(content_type="text/x-shellscript", body=script.encode(), filename=PUTERS + name)


@cache
def _script(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _largest_field(machine: Machine) -> str:
    sizes = {
        "user_data": len((machine.user_data or "").encode()),
        "run": len((machine.run or "").encode()),
        "env": sum(len(f"{name}={value}".encode()) for name, value in machine.env.items()),
    }
    return max(sizes, key=lambda name: sizes[name])
