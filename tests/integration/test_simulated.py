"""The EC2 of `puter demo`: its machines run their workloads for real, and nothing else of their user data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from puter_client.contract.key import PuterKey
from puter_client.contract.result import Result
from puter_worker.ec2.frame import Frame, read_frame
from puter_worker.ec2.userdata import Boot, compose
from puter_worker.ec2.userdata import Machine as Member
from puter_worker.simulated.machine import Machine, make_commands
from tests.integration.engine_world import is_running, wait_for
from tests.integration.workshop import PATIENCE_S

NONCE = "0123456789abcdef"
ROOT = Path(__file__).parents[2]
COMMANDS = ROOT / "puter_worker/simulated/commands.sh"


def user_data(run: str | None, *, docker: bool = False, own: str | None = None, **env: str) -> bytes:
    boot = Boot(ttl_s=3_600, nonce=NONCE, expires_at="2026-11-27T05:00:00Z", user="ec2-user", docker=docker)
    key = PuterKey("alice", "sweep-17")
    return compose(boot, [Member(key=key, generation=1, run=run, env=env, user_data=own)])


def machine_of(folder: Path, data: bytes, *, taken_back: bool = False) -> Machine:
    make_commands(folder / "bin")
    return Machine(folder / "m", folder / "bin", data, taken_back=taken_back)


def frame_of(machine: Machine) -> Frame:
    frame = read_frame(machine.console.decode(), NONCE)
    assert frame is not None, machine.console.decode()
    return frame


@pytest.mark.parametrize(
    ("run", "result", "exit_code", "output"),
    [
        ("echo done", Result.SUCCEEDED, 0, "done\n"),
        ("echo no data >&2; exit 3", Result.FAILED, 3, "no data\n"),
        ("echo $$; kill -KILL $$", Result.FAILED, 137, None),
        ('echo "$SEED" {a,b}', Result.SUCCEEDED, 0, "7 a b\n"),
        ("python3 -c 'print(6 * 7)'", Result.SUCCEEDED, 0, "42\n"),
    ],
)
def test_a_workload_is_run_and_its_end_is_on_the_console(
    tmp_path: Path, run: str, result: Result, exit_code: int, output: str | None
) -> None:
    machine = machine_of(tmp_path, user_data(run, SEED="7"))
    machine.run()

    frame = frame_of(machine)
    assert (frame.result, frame.exit_code) == (result, exit_code)
    assert output is None or frame.output == output


def test_a_workload_is_at_home_in_the_folder(tmp_path: Path) -> None:
    machine = machine_of(tmp_path, user_data('touch here "$TMPDIR/there"; pwd; echo "$HOME"'))
    machine.run()

    home = tmp_path / "m/root/home/ec2-user"
    assert frame_of(machine).output == f"{home}\n{home}\n"
    assert (home / "here").exists()
    assert (tmp_path / "m/root/tmp/there").exists()


def test_a_spot_machine_that_is_taken_back_ends_as_interrupted(tmp_path: Path) -> None:
    machine = machine_of(
        tmp_path, user_data("trap 'echo bye; exit 1' TERM; while :; do sleep 0.1; done"), taken_back=True
    )
    machine.run()

    assert frame_of(machine).result is Result.INTERRUPTED


def test_only_the_parts_of_the_agent_are_run(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    machine = machine_of(tmp_path, user_data("true", docker=True, own=f"#!/bin/sh\ntouch {seen}\n"))
    machine.run()

    assert not seen.exists()
    assert not (tmp_path / "m/root/var/lib/puter/deadline").exists()
    assert frame_of(machine).reason == "did not run: Docker is not up"


def test_no_script_of_a_machine_reaches_a_command_that_changes_this_computer(tmp_path: Path) -> None:
    machine_of(tmp_path, user_data("true")).run()

    reached = {path.name for path in (tmp_path / "bin").iterdir() if path.is_symlink()}
    assert "cat" in reached
    assert not reached & {"systemctl", "shutdown", "docker", "curl", "chown", "at", "sudo", "apt-get", "reboot", "dnf"}


@pytest.mark.skipif(sys.platform != "linux", reason="compares with GNU's")
@pytest.mark.parametrize(
    "words", [["sha256sum"], ["base64", "-w", "0"], ["stat", "-c", "%s", "FILE"]], ids=lambda w: w[0]
)
@pytest.mark.parametrize("content", [b"", b"a line\n", bytes(range(256)) * 40])
def test_where_gnus_tools_are_missing_their_stand_ins_do_the_same(
    tmp_path: Path, words: list[str], content: bytes
) -> None:
    file, stand_in = tmp_path / "file", tmp_path / words[0]
    file.write_bytes(content)
    stand_in.write_bytes(COMMANDS.read_bytes())
    stand_in.chmod(0o700)
    arguments = [str(file) if word == "FILE" else word for word in words[1:]]
    environ = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "MACHINE": str(tmp_path)}

    def told(program: str) -> list[bytes]:
        with file.open("rb") as given:
            done = subprocess.run([program, *arguments], stdin=given, env=environ, capture_output=True, check=True)
        return done.stdout.split()

    assert told(str(stand_in)) == told(words[0])


def test_shellcheck_finds_nothing_in_the_stand_ins() -> None:
    command = [str(Path(sys.executable).with_name("shellcheck")), "--norc", str(COMMANDS)]

    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""


class Served:
    """A simulated EC2 in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "puter_worker.simulated", "0", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        assert self.process.stdout
        port = self.process.stdout.readline().strip()
        assert port, "it did not start"
        aws = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name="us-east-1")
        self.ec2: Any = aws.client("ec2", endpoint_url=f"http://127.0.0.1:{port}")

    def launch(self, run: str, **tags: str) -> str:
        image = self.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        launched = self.ec2.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            InstanceType="t3.micro",
            UserData=user_data(run),
            TagSpecifications=[
                {"ResourceType": "volume", "Tags": [{"Key": "of", "Value": "the disk"}]},
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": k, "Value": v} for k, v in {"Name": "one", **tags}.items()],
                },
            ],
        )
        return str(launched["Instances"][0]["InstanceId"])

    def shown(self, instance: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        return found

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(PATIENCE_S)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    ec2 = Served(tmp_path / "machines")
    with ec2.process:
        try:
            yield ec2
        finally:
            if ec2.process.poll() is None:
                ec2.end()


def test_an_instance_has_a_console_and_ends_with_its_workload(served: Served) -> None:
    instance = served.launch("echo hello; exit 3")

    wait_for(lambda: served.shown(instance)["State"]["Name"] == "terminated", "the instance to end")
    frame = read_frame(served.ec2.get_console_output(InstanceId=instance)["Output"], NONCE)
    assert frame is not None
    assert (frame.exit_code, frame.output) == (3, "hello\n")
    assert served.shown(instance)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_a_machine_heeds_an_order_that_is_a_tag(served: Served) -> None:
    instance = served.launch("echo begun; sleep 1000")
    log = served.folder / instance / "root/var/log/puter/workload.log"
    wait_for(lambda: log.exists() and log.read_text() != "", "the workload to run")

    served.ec2.create_tags(Resources=[instance], Tags=[{"Key": "puter:order", "Value": "stop"}])

    wait_for(lambda: served.shown(instance)["State"]["Name"] == "terminated", "the instance to end")
    frame = read_frame(served.ec2.get_console_output(InstanceId=instance)["Output"], NONCE)
    assert frame is not None
    assert frame.result is Result.STOPPED


def test_tags_of_the_launch_are_in_the_metadata(served: Served) -> None:
    instance = served.launch("true", **{"puter:member": "3", "a b": "", "a/b": "", "..": "", "empty": ""})

    shown = served.folder / instance / "metadata/tags/instance"
    assert {path.name: path.read_text() for path in shown.iterdir()} == {
        "Name": "one",
        "puter:member": "3",
        "empty": "",
    }


def test_of_many_machines_at_once_each_runs_and_none_is_seen_half_ended(served: Served) -> None:
    instances = [served.launch(f"echo {number}") for number in range(12)]
    ends: dict[str, str] = {}

    def all_ended() -> bool:
        for instance in instances:
            shown = served.shown(instance)
            if shown["State"]["Name"] == "terminated":
                ends.setdefault(instance, shown["StateReason"]["Code"])
        return len(ends) == len(instances)

    wait_for(all_ended, "the instances to end", 60)
    assert set(ends.values()) == {"Client.InstanceInitiatedShutdown"}
    frames = [read_frame(served.ec2.get_console_output(InstanceId=one)["Output"], NONCE) for one in instances]
    assert [frame and frame.output for frame in frames] == [f"{number}\n" for number in range(12)]


def test_everything_ends_with_its_standard_input(served: Served) -> None:
    instance = served.launch("trap '' TERM; echo $$ >pid.new; mv pid.new pid; sleep 1000; true")
    pid = served.folder / instance / "root/home/ec2-user/pid"
    wait_for(pid.exists, "the workload to run")

    served.end()

    def processes() -> list[str]:
        ran = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        return [line for line in ran.splitlines() if str(served.folder) in line]

    wait_for(lambda: processes() == [], "its processes to end")
    wait_for(lambda: not is_running(int(pid.read_text())), "the workload to be gone")
