"""What cloud-init's own parser makes of user data: each machine gets the common part and its own, and no other's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from puter_client.contract.key import PuterKey
from puter_worker.ec2.userdata import Boot, Machine, compose

SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's package cloud-init belongs to this one
BOOT = Boot(ttl_s=3_600, nonce="0" * 16, expires_at="never", user="ec2-user")
ODD = "it's $HOME `x` \\ \" ü €\r\n\tend\n"

# cloud-init's way from what EC2 hands out to what its handlers are given, in its own order.
READ = """
import json, sys
from cloudinit.filters.launch_index import Filter
from cloudinit.handlers import walk
from cloudinit.helpers import Paths
from cloudinit.user_data import UserDataProcessor

folder, count = sys.argv[1], int(sys.argv[2])
with open(folder + "/user-data", "rb") as file:
    message = UserDataProcessor(Paths({"cloud_dir": folder})).process(file.read())
for index in range(count):
    parts = []
    walk(
        Filter(index).apply(message),
        lambda data, name, text, headers: data.append({"name": name, "type": headers["Content-Type"], "text": text}),
        parts,
    )
    print(json.dumps(parts))
"""


class Arrived(msgspec.Struct, frozen=True):
    """A part as one of cloud-init's handlers gets it."""

    name: str
    type: str
    text: str


@pytest.fixture(scope="module", autouse=True)
def _cloud_init() -> None:
    needs_cloud_init()


def needs_cloud_init() -> None:
    """Skip the test where cloud-init's own parser is not; where all tests must run, fail it."""
    found = subprocess.run([SYSTEM_PYTHON, "-c", "import cloudinit.user_data"], capture_output=True, check=False)
    if found.returncode == 0:
        return
    reason = f"{SYSTEM_PYTHON} has no cloudinit: install Debian's package cloud-init"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def machine(number: int, **own: Any) -> Machine:
    fields: dict[str, Any] = {"run": f"render --frame {number}", "env": {}, "user_data": None} | own
    return Machine(key=PuterKey("alice", f"sweep-{number}"), generation=1, **fields)


def arrived(folder: Path, machines: list[Machine]) -> list[list[Arrived]]:
    """What arrives on each machine of one launch, in the order of their launch indexes."""
    (folder / "user-data").write_bytes(compose(BOOT, machines))
    read = subprocess.run(
        [SYSTEM_PYTHON, "-c", READ, folder, str(len(machines))], capture_output=True, text=True, check=True
    )
    return [msgspec.json.decode(line, type=list[Arrived]) for line in read.stdout.splitlines()]


def of_type(parts: list[Arrived], content_type: str) -> list[str]:
    return [part.text for part in parts if part.type == content_type]


def test_one_machine_gets_its_parts_in_order(tmp_path: Path) -> None:
    [parts] = arrived(tmp_path, [machine(1, user_data="#!/bin/sh\ntrue\n")])

    assert [(part.type, part.name) for part in parts] == [
        ("text/cloud-boothook", "000-puter-0-deadline"),
        ("text/x-shellscript", "000-puter-1-at"),
        ("text/x-shellscript", "000-puter-2-docker"),
        ("text/x-shellscript", "000-puter-3-agent"),
        ("text/x-shellscript", "000-puter-4-task"),
        ("text/x-shellscript", "part-006"),
    ]


def test_a_gzipped_machine_gets_the_same_common_part(tmp_path: Path) -> None:
    [plain] = arrived(tmp_path, [machine(1)])
    [gzipped] = arrived(tmp_path, [machine(1, run="x" * 16_000)])

    assert gzipped[:4] == plain[:4]


def test_each_of_a_hundred_gets_the_common_part(tmp_path: Path) -> None:
    [alone] = arrived(tmp_path, [machine(1)])

    hundred = arrived(tmp_path, [machine(n) for n in range(100)])

    assert [parts[:4] for parts in hundred] == [alone[:4]] * 100


def test_each_of_a_hundred_gets_its_own_workload_and_no_other(tmp_path: Path) -> None:
    hundred = arrived(tmp_path, [machine(n) for n in range(100)])

    tasks = [[part.text for part in parts if part.name == "000-puter-4-task"] for parts in hundred]
    assert [len(texts) for texts in tasks] == [1] * 100
    assert [f"\ntask alice/sweep-{n} 1 shutdown 'render --frame {n}'" in text for n, [text] in enumerate(tasks)] == [
        True
    ] * 100


def test_each_part_of_a_multipart_reaches_everyone(tmp_path: Path) -> None:
    multipart = (
        "Content-Type: multipart/mixed; boundary=b\nMIME-Version: 1.0\n\n"
        "--b\nContent-Type: text/x-shellscript\n\n#!/bin/sh\necho ü\n\n"
        "--b\nContent-Type: text/cloud-config\n\n#cloud-config\n{}\n\n--b--\n"
    )

    members = arrived(tmp_path, [machine(n, user_data=multipart) for n in range(2)])

    assert [[part.text for part in parts[5:]] for parts in members] == [
        ["#!/bin/sh\necho ü\n", "#cloud-config\n{}\n"]
    ] * 2


def test_shared_user_data_reaches_everyone_once(tmp_path: Path) -> None:
    members = arrived(tmp_path, [machine(n, user_data="#cloud-config\n{}\n") for n in range(3)])

    assert [of_type(parts, "text/cloud-config") for parts in members] == [["#cloud-config\n{}\n"]] * 3


@pytest.mark.parametrize("count", [1, 2])
def test_odd_letters_arrive_unaltered(tmp_path: Path, count: int) -> None:
    members = arrived(tmp_path, [machine(n, user_data=f"#!/bin/sh\n# {ODD}") for n in range(count)])

    assert [parts[-1].text for parts in members] == [f"#!/bin/sh\n# {ODD}"] * count


def test_an_odd_workload_arrives_unaltered(tmp_path: Path) -> None:
    [parts] = arrived(tmp_path, [machine(1, run="echo ü €\r\n\t# end")])

    assert "\ntask alice/sweep-1 1 shutdown 'echo ü €\r\n\t# end'\n" in parts[-1].text


@pytest.mark.parametrize(
    ("user_data", "content_type"),
    [
        ("#!/bin/sh\ntrue\n", "text/x-shellscript"),
        ("#cloud-config\n{}\n", "text/cloud-config"),
        ("#cloud-boothook\n#!/bin/sh\n", "text/cloud-boothook"),
        ("## template: jinja\n#!/bin/sh\n", "text/jinja2"),
    ],
)
def test_cloud_init_takes_each_kind_for_what_it_is(tmp_path: Path, user_data: str, content_type: str) -> None:
    [parts] = arrived(tmp_path, [machine(1, user_data=user_data)])

    assert (parts[-1].type, parts[-1].text) == (content_type, user_data)


SCRIPT_OF = """
import sys
from cloudinit.handlers.shell_script import ShellScriptPartHandler
from cloudinit.helpers import Paths

folder, name, text = sys.argv[1:]
handler = ShellScriptPartHandler(Paths({"cloud_dir": folder, "run_dir": folder}))
handler.script_dir = folder
handler.handle_part(None, "text/x-shellscript", name, text, None)
"""


def test_cloud_init_itself_gives_a_script_from_windows_the_line_ends_of_linux(tmp_path: Path) -> None:
    [parts] = arrived(tmp_path, [machine(1, user_data="#!/bin/sh\r\ntrue\r\n")])

    subprocess.run([SYSTEM_PYTHON, "-c", SCRIPT_OF, tmp_path, "script", parts[-1].text], check=True)

    assert (tmp_path / "script").read_bytes() == b"#!/bin/sh\ntrue\n"
