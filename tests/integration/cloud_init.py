"""cloud-init's own code, asked what it makes of user data.

It is that of Debian's package, and of each source tree of cloud-init that PUTER_CLOUD_INIT names (paths, with `:`
between them): the images that Puter launches have versions from 19.3 to the newest.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import pytest

SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's package cloud-init belongs to this one
READER = Path(__file__).with_name("cloud_init_reader.py")
TREES = [None, *filter(None, os.environ.get("PUTER_CLOUD_INIT", "").split(os.pathsep))]


class Arrived(msgspec.Struct, frozen=True):
    """A part as one of cloud-init's handlers gets it."""

    name: str
    type: str
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Booted(msgspec.Struct, frozen=True):
    """What cloud-init has done with user data at a first boot, before it runs scripts.

    Attributes:
        told: the lines that boothooks have written to $TOLD, in order.
        scripts: those that it will run, by name.
        raised: the error that ended it, if one did: then nothing more is done with user data at this boot.
    """

    told: list[str]
    scripts: dict[str, bytes]
    raised: str | None = None


class Known(msgspec.Struct, frozen=True):
    """The content types, and the beginnings of texts, that cloud-init knows."""

    types: list[str]
    beginnings: list[str]


class _Question(msgspec.Struct, omit_defaults=True):
    user_data: bytes
    members: int | None = None
    launch_index: int | None = None
    folder: str | None = None


class _Parts(msgspec.Struct):
    members: list[list[tuple[str, str, str]]] = []
    texts: dict[str, bytes] = {}
    raised: str | None = None


class CloudInit:
    """One version of it."""

    def __init__(self, tree: str | None = None) -> None:
        """`tree`: the folder of its source; None is the installed package."""
        self._tree = tree

    def parts(self, launches: Iterable[tuple[bytes, int]]) -> list[list[list[Arrived]]]:
        """What arrives on each member of launches, each with its user data and its number of members."""
        questions = [_Question(data, members=count) for data, count in launches]
        found: list[list[list[Arrived]]] = []
        for line in self._ask("parts", questions):
            answer = msgspec.json.decode(line, type=_Parts)
            assert answer.raised is None, answer.raised
            members = answer.members
            found.append([[Arrived(name, kind, answer.texts[digest]) for name, kind, digest in own] for own in members])
        return found

    def boots(self, folder: Path, machines: Sequence[bytes]) -> list[Booted]:
        """The first boots of machines with this user data."""
        questions = []
        for number, data in enumerate(machines):
            own = folder / str(number)
            own.mkdir(parents=True)
            questions.append(_Question(data, launch_index=0, folder=str(own)))
        return [msgspec.json.decode(line, type=Booted) for line in self._ask("boot", questions)]

    def known(self) -> Known:
        (line,) = self._ask("known", [])
        return msgspec.json.decode(line, type=Known)

    def _ask(self, mode: str, questions: Sequence[_Question]) -> list[bytes]:
        env = {"PATH": "/usr/bin:/bin"} | ({"PYTHONPATH": self._tree} if self._tree else {})
        asked = b"".join(msgspec.json.encode(question) + b"\n" for question in questions)
        read = subprocess.run(
            [SYSTEM_PYTHON, "-B", READER, mode], input=asked, capture_output=True, env=env, check=False
        )
        assert read.returncode == 0, read.stderr.decode()
        return read.stdout.splitlines()


def needs_cloud_init() -> None:
    """Skip the test where cloud-init's own parser is not; where all tests must run, fail it."""
    found = subprocess.run([SYSTEM_PYTHON, "-c", "import cloudinit.user_data"], capture_output=True, check=False)
    if found.returncode == 0:
        return
    reason = f"{SYSTEM_PYTHON} has no cloudinit: install Debian's package cloud-init"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
