"""`puter ssh`, `rsync` and `ssh-config`, with programs that write down what they were given; and the real ssh."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.cli_world import CliWorld, Ran, arguments


def given(betty: CliWorld, program: str, *words: str) -> tuple[Ran, list[str]]:
    """A command that becomes the program; and the program's arguments."""
    seen = betty.home.parent / "seen"
    ran = betty.puter(*words, PATH=betty.program(program, arguments([])), SEEN=str(seen))
    return ran, seen.read_text().splitlines()


class TestSsh:
    def test_the_command_becomes_ssh_with_a_host_key_of_the_instance(self, betty: CliWorld) -> None:
        told = betty.up("shell")
        ran, words = given(betty, "ssh", "ssh", "shell")
        assert ran.code == 7
        assert words[:2] == ["-i", told["private_key_path"]]
        assert words[-1] == f"ec2-user@{told['public_dns_name']}"
        options = set(words[2:-1:2]) | set(words[3:-1:2])
        assert options >= {
            f"HostKeyAlias={told['instance_id']}",
            "StrictHostKeyChecking=accept-new",
            "IdentitiesOnly=yes",
            f"UserKnownHostsFile={betty.home}/private_keys/known_hosts",
        }

    @pytest.mark.parametrize("words", [["--", "ls", "-la", "--help"], ["ls", "-la", "--help"]])
    def test_a_command_is_passed_on_as_it_is(self, betty: CliWorld, words: list[str]) -> None:
        betty.up("shell")
        _, seen = given(betty, "ssh", "ssh", "shell", *words)
        assert seen[-4:] == ["--", "ls", "-la", "--help"]

    def test_a_stranger_is_one_line(self, betty: CliWorld) -> None:
        betty.up("shell")
        ran = betty.puter("ssh", "stranger")
        assert (ran.code, ran.err) == (1, "puter: stranger is not known in namespace betty\n")

    def test_a_machine_that_never_came_is_one_line(self, betty: CliWorld) -> None:
        betty.puter("up", "never", "--subnet", "subnet-00000000")
        ran = betty.puter("ssh", "never")
        assert ran.code == 1
        assert ran.err.startswith("puter: never is failed: ")

    def test_without_ssh_one_line_says_so(self, betty: CliWorld, tmp_path: Path) -> None:
        betty.up("shell")
        ran = betty.puter("ssh", "shell", PATH=str(tmp_path))
        assert (ran.code, ran.err.startswith("puter: ssh is not installed")) == (127, True)


class TestRsync:
    @pytest.mark.parametrize(
        ("source", "destination", "sides"),
        [
            ("./", "work/", ["./", "{}:work/"]),
            ("-odd", ":work/", ["-odd", "{}:work/"]),
            (":results/", "here/", ["{}:results/", "here/"]),
        ],
    )
    def test_the_side_with_a_colon_is_the_machines(
        self, betty: CliWorld, source: str, destination: str, sides: list[str]
    ) -> None:
        told = betty.up("copy")
        ran, words = given(betty, "rsync", "rsync", "copy", "--", source, destination)
        target = f"ec2-user@{told['public_dns_name']}"
        assert (ran.code, words[-3:]) == (7, ["--", *(side.format(target) for side in sides)])

    def test_it_goes_through_ssh_with_the_same_options(self, betty: CliWorld) -> None:
        told = betty.up("copy")
        _, words = given(betty, "rsync", "rsync", "copy", "a", "b")
        shell = words[words.index("-e") + 1]
        assert shell.startswith(f"ssh -i {told['private_key_path']} -o ")
        assert f"HostKeyAlias={told['instance_id']}" in shell

    def test_two_machines_are_refused(self, betty: CliWorld) -> None:
        betty.up("copy")
        assert betty.puter("rsync", "copy", ":a", ":b").code == 2


class TestSshConfig:
    def test_there_is_a_block_for_each_living_machine(self, betty: CliWorld) -> None:
        told = betty.up("block", "-n", "blocks")
        ran = betty.puter("ssh-config", "-n", "blocks")
        assert "\nHost puter-blocks-block\n" in ran.out
        assert f"  HostName {told['public_dns_name']}\n" in ran.out

    @pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh")
    def test_ssh_reads_it(self, betty: CliWorld, tmp_path: Path) -> None:
        told = betty.up("block", "-n", "blocks")
        config = tmp_path / "puter.conf"
        config.write_text(betty.puter("ssh-config", "-n", "blocks").out)
        read = subprocess.run(
            ["ssh", "-G", "-F", str(config), "puter-blocks-block"], capture_output=True, text=True, check=True
        )
        values = dict(line.split(" ", 1) for line in read.stdout.splitlines())
        assert values["hostname"] == told["public_dns_name"]
        assert values["hostkeyalias"] == told["instance_id"]
        assert values["identityfile"] == told["private_key_path"]
