"""Composes Puter's part and the user's part, for one machine or for all machines of one launch."""

from __future__ import annotations

import gzip
import re
import shlex
import zlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

import msgspec

from puter_client.contract.fields import USER_DATA_LIMIT_BYTES
from puter_client.contract.key import PuterKey
from puter_client.contract.spec import OnExit
from puter_client.contract.userdata import PUTERS, Part, parts_of
from puter_worker.ec2.userdata.mime import render
from puter_worker.errors import UserDataTooLarge

# Comments take space that users' workloads may need; the first line names the shell.
_COMMENT = re.compile(r"^[ \t]*#(?!!).*\n", re.MULTILINE)


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """What all machines of one launch share.

    Attributes:
        ttl_s: seconds from the first boot until a machine ends itself; None is never.
        nonce: the id of the intent; the machines' end frames have it.
        expires_at: the value of the tag `puter:expires-at` that the machines are launched with.
        user: the image's user, whose the workload is; a word for shells.
        docker: whether Docker is installed.
    """

    ttl_s: int | None
    nonce: str
    expires_at: str
    user: str
    docker: bool = True


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What one machine has of its own.

    Attributes:
        key: the machine's key.
        generation: the machine's generation.
        run: the workload, a shell command; None is no workload.
        env: the workload's environment; the names are valid in a shell.
        user_data: the user's own part, which `check_user_data` has accepted.
        ends_with_workload: whether it ends itself when its workload has ended.
    """

    key: PuterKey
    generation: int
    run: str | None
    env: dict[str, str]
    user_data: str | None
    ends_with_workload: bool = True

    def __repr__(self) -> str:
        # run, env and user data may hold secrets, and logs may show a repr.
        return f"Machine(key={str(self.key)!r}, generation={self.generation})"


def compose(boot: Boot, machines: Sequence[Machine], *, by_tag: bool = False) -> bytes:
    """User data for RunInstances, before base64; the same arguments give the same bytes.

    For several machines, each member's own workload has cloud-init's Launch-Index header: the index in `machines`.
    user_data has none, because it is the same for all: the text of one user would else stand beside that of another.
    All Spot instances of a launch have index 0: they get the workloads of all members in one part (`by_tag`), and each
    agent takes that of the place that it reads from its machine's tag `puter:member`.
    A caller that makes groups need not compute sizes: it halves a group for which this raises UserDataTooLarge.

    Args:
        boot: what the machines share.
        machines: at least one, in the order of their places, with the same user_data or none.
        by_tag: whether the machines learn their places from a tag, not from their launch indexes.

    Raises:
        UserDataTooLarge: it is over EC2's limit.
        InvalidInput: a machine's user_data cannot be used, see `check_user_data`.
    """
    if not machines:
        raise ValueError("no machines")
    if len({machine.user_data for machine in machines}) > 1:
        raise ValueError("machines of one launch have different user_data")
    if len(machines) > 1:
        _check_room(machines)
    packed = gzip.compress(render([*_common(boot), *_members(machines, by_tag=by_tag)]), mtime=0)
    if len(packed) > USER_DATA_LIMIT_BYTES:
        raise _too_large(len(packed), machines)
    return packed


def _check_room(machines: Sequence[Machine]) -> None:
    """Refuse a group whose workloads and variables alone are too large, before all of them are rendered and compressed.

    A hundred that cannot be compressed would hold up the worker's loop for a tenth of a second.
    """
    packer, size = zlib.compressobj(), 0
    for machine in machines:
        size += len(packer.compress("\n".join([machine.run or "", *machine.env.values()]).encode()))
        if size > USER_DATA_LIMIT_BYTES:
            raise _too_large(size, machines)


def _too_large(size: int, machines: Sequence[Machine]) -> UserDataTooLarge:
    excess = size - USER_DATA_LIMIT_BYTES
    if len(machines) == 1:
        whose = str(machines[0].key)
        remedy = f"shorten {_largest_field(machines[0])}, or fetch it from within the machine"
    else:
        whose, remedy = f"{len(machines)} machines", "launch them in smaller groups"
    message = (
        f"user data of {whose} has {size:,} bytes gzipped, {excess:,} more than the "
        f"{USER_DATA_LIMIT_BYTES:,} that EC2 accepts: {remedy}"
    )
    return UserDataTooLarge(message, size=size, excess=excess)


def _common(boot: Boot) -> list[Part]:
    ttl = "" if boot.ttl_s is None else str(boot.ttl_s)
    deadline = _script("deadline.sh").replace("@ttl_s@", ttl)
    parts = [Part(content_type="text/cloud-boothook", body=deadline.encode(), filename=f"{PUTERS}0-deadline")]
    if boot.ttl_s is not None:
        parts.append(_shell("1-at", _installing("at.sh")))
    if boot.docker:
        parts.append(_shell("2-docker", _installing("docker.sh").replace("@user@", boot.user)))
    parts.append(_shell("3-agent", _agent(boot)))
    return parts


def _agent(boot: Boot) -> str:
    script = _script("agent.sh")
    own = {
        "nonce": boot.nonce,
        "user": boot.user,
        "home": "/root" if boot.user == "root" else f"/home/{boot.user}",
        "docker": "yes" if boot.docker else "no",
        "expires_at": boot.expires_at,
    }
    for name, value in own.items():
        script = script.replace(f"@{name}@", value)
    return script


def _members(machines: Sequence[Machine], *, by_tag: bool) -> list[Part]:
    tasks = {place: _task(machine, machine.run) for place, machine in enumerate(machines) if machine.run is not None}
    if by_tag and tasks:
        choices = "".join(f"{place})\n{task};;\n" for place, task in tasks.items())
        parts = [_tasks(f"case ${{1:-}} in\n'') keep ;;\n{choices}esac\n")]
    else:
        parts = [_for_index(_tasks(task), place, machines) for place, task in tasks.items()]
    return [*parts, *_own(machines[0])]


def _own(machine: Machine) -> tuple[Part, ...]:
    return () if machine.user_data is None else parts_of(machine.user_data)


def _for_index(part: Part, index: int, machines: Sequence[Machine]) -> Part:
    return part if len(machines) == 1 else msgspec.structs.replace(part, launch_index=index)


def _tasks(calls: str) -> Part:
    return _shell("4-task", _script("task.sh") + calls)


def _task(machine: Machine, run: str) -> str:
    """The call of task.sh's function that stores a machine's workload."""
    pairs = [f"{name}={value}" for name, value in sorted(machine.env.items())]
    on_exit = OnExit.SHUTDOWN if machine.ends_with_workload else OnExit.KEEP
    words = [str(machine.key), str(machine.generation), on_exit.value, run, *pairs]
    return f"task {' '.join(map(shlex.quote, words))}\n"


def _shell(name: str, script: str) -> Part:
    return Part(content_type="text/x-shellscript", body=script.encode(), filename=PUTERS + name)


def _installing(name: str) -> str:
    """A script that installs software, with what knows the package managers of all systems."""
    return _script(name).replace("@install@\n", _script("install.sh"))


@cache
def _script(name: str) -> str:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return _COMMENT.sub("", text)


def _largest_field(machine: Machine) -> str:
    sizes = {
        "user_data": len((machine.user_data or "").encode()),
        "run": len((machine.run or "").encode()),
        "env": sum(len(f"{name}={value}".encode()) for name, value in machine.env.items()),
    }
    return max(sizes, key=lambda name: sizes[name])
