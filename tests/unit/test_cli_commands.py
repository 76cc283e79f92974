"""Commands as they are typed: names, help, usage errors, dry runs. Nothing is started."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from puter_client import __version__
from puter_client.cli.app import main, puter
from puter_client.cli.group import COMMANDS
from puter_client.contract.errors import InvalidInput
from puter_client.contract.os_image import Os
from puter_client.local.worker_process import worker_environ

SUBCOMMANDS: list[tuple[str, ...]] = [(name,) for name in COMMANDS]
SUBCOMMANDS += [("local", name) for name in ("start", "stop", "status")]
SUBCOMMANDS += [("admin", "user"), *(("admin", "user", name) for name in ("add", "remove", "list"))]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A PUTER_HOME that does not exist, and no settings from outside; nobody answers where addresses are requested."""
    for name in ("PUTER_REDIS_URL", "PUTER_NAMESPACE", "PUTER_DEBUG", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PUTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOGNAME", "betty")
    monkeypatch.setattr("puter_client.address.CHECK_URL", "http://127.0.0.1:1/")
    yield tmp_path / "home"
    assert not (tmp_path / "home" / "engine").exists()


class TestHelp:
    @pytest.mark.parametrize("words", [(), *SUBCOMMANDS])
    def test_no_line_is_wider_than_80_columns(self, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*words, "--help"]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80

    @pytest.mark.parametrize("command", ["up", "submit"])
    @pytest.mark.parametrize(
        ("begun", "whole"), [("", list(Os)), ("ubuntu", ["ubuntu24.04", "ubuntu22.04"]), ("x", [])]
    )
    def test_a_shell_completes_the_systems(self, command: str, begun: str, whole: list[str]) -> None:
        shell = ShellComplete(puter, {}, "puter", "_PUTER_COMPLETE")

        assert [one.value for one in shell.get_completions([command, "--os"], begun)] == whole

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_has_examples(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        main([name, "--help"])
        assert f"\n    puter {name}" in capsys.readouterr().out.replace("puter_", "").replace(
            "PUTER_REDIS_URL=rediss://puter:…@redis.example:6379 ", ""
        )

    @pytest.mark.parametrize("name", COMMANDS)
    def test_the_line_of_a_command_is_the_one_in_the_table(self, name: str) -> None:
        command = puter.get_command(click.Context(puter), name)
        assert command is not None
        assert (command.name, command.short_help) == (name, COMMANDS[name][2])

    def test_without_anything_help_is_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 0
        assert capsys.readouterr().out.startswith("Usage: puter")

    def test_the_version_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"puter {__version__}\n"


class TestUsage:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["stat"], "No such command 'stat'; did you mean 'status'?"),
            (["zzz"], "see `puter --help`"),
            (["up"], "no tag: name the machine with --tag NAME (see `puter up --help`)"),
            (["up", "x", "--bogus"], "No such option '--bogus'"),
            (["up", "a", "--tag", "b"], "two tags, 'a' and 'b'"),
            (["--namespace", "x", "status"], "write it first: puter status"),
            (["--tag", "x", "y"], "name the tag with --tag"),
            (["up", "a b"], "tag 'a b': use 1 to 128 letters"),
            (["up", "x", "--ttl", "60"], "--ttl: '60': write it like"),
            (["up", "x", "--timeout", "soon"], "--timeout 'soon': write it like"),
            (["up", "x", "--wait", "ready"], "'ready' is not one of"),
            (["up", "x", "-n", "Betty"], "--namespace 'Betty': use 1 to 39"),
            (["submit"], "name either a file"),
            (["submit", "f", "--tag", "x-{i}"], "name either a file"),
            (["submit", "f", "--count", "3"], "--count goes with --tag"),
            (["submit", "--tag", "x", "--count", "2"], "{i}"),
            (["submit", "gone.yaml"], "'gone.yaml': does not exist"),
            (["submit", "--tag", "x", "--max-parallel", "0"], "--max-parallel"),
            (["status", "x", "--all"], "choose one: tags, --batch or --all"),
            (["status", "--phase", "foo"], "'foo' is not one of queued, resolving, launching, pending, running"),
            (["status", "--phase", "running,\x1b[2J"], "is not one of queued"),
            (["status", "--phase", "running,"], "'' is not one of queued"),
            (["status", "--result", "lost", "--result", "Failed"], "'Failed' is not one of succeeded, failed"),
            (["cancel"], "name tags, or --batch ID"),
            (["rsync", "x", ":a"], "Missing argument 'DST'"),
        ],
    )
    def test_wrong_usage_is_exit_code_2_and_a_line_that_says_what_is_wrong(
        self, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code = main(words)
        told = capsys.readouterr()
        assert (code, told.out) == (2, "")
        (line,) = told.err.splitlines()
        assert line.startswith("puter: ")
        assert said in line

    @pytest.mark.parametrize(
        ("config", "environ", "words", "blamed"),
        [
            ("", {}, ["status", "-n", "No!"], "--namespace 'No!': use 1 to 39"),
            ("", {"PUTER_NAMESPACE": "No!"}, ["status"], "PUTER_NAMESPACE 'No!': use 1 to 39"),
            ('namespace = "No!"', {}, ["status"], "{config}: namespace: 'No!': use 1 to 39"),
            ("", {"PUTER_REDIS_URL": "ftp://x"}, ["status"], "PUTER_REDIS_URL is not a Redis URL"),
            ('redis_url = "ftp://x"', {}, ["status"], "{config}: redis_url: is not a Redis URL"),
            ("", {"PUTER_REDIS_URL": "redis://127.0.0.1:1"}, ["status"], "host and port in PUTER_REDIS_URL"),
            ('redis_url = "redis://127.0.0.1:1"', {}, ["status"], "host and port in redis_url in {config}"),
            ("", {"PUTER_HOME": "~nosuch/x"}, ["status"], "PUTER_HOME '~nosuch/x': there is no such user"),
            ("", {}, ["up", "x", "--public-key", "~nosuch/k"], "--public-key '~nosuch/k': there is no such user"),
            ("", {}, ["up", "x", "--public-key", "gone"], "--public-key 'gone': file not found"),
            ('defaults.public_key = "gone"', {}, ["up", "x"], "{config}: defaults.public_key 'gone': file not found"),
            ('defaults.public_key = "/"', {}, ["submit", "--tag", "x"], "{config}: defaults.public_key '/': is not a"),
            (
                'defaults.public_key = "gone"',
                {},
                ["up", "x", "--public-key", "/"],
                "--public-key '/': is not a regular",
            ),
            ('defaults.env.A = "1"', {}, ["up", "x"], "config.toml: defaults.env: has no effect alone: write run as"),
            ('defaults.env.A = "1"', {}, ["submit", "--tag", "x"], "config.toml: defaults.env: has no effect alone"),
            ('defaults.env.A = "1"', {}, ["up", "x", "-e", "B=1"], "--env: has no effect alone: write --run as well"),
            ('defaults.ttl = "1"', {}, ["up", "x"], "{config}: defaults.ttl: '1': write it like"),
        ],
    )
    def test_what_cannot_be_used_is_told_with_the_setting_that_holds_it(
        self,
        config: str,
        environ: dict[str, str],
        words: list[str],
        blamed: str,
        home: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        home.mkdir()
        (home / "config.toml").write_text(config)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

        code = main([*words, "--dry-run"] if words[0] in ("up", "submit") else words)

        assert code in (2, 3)
        (line,) = capsys.readouterr().err.splitlines()
        assert blamed.format(config=home / "config.toml") in line

    def test_a_group_without_a_command_shows_its_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["local"]) == 2
        assert "Start, stop or inspect the local engine" in capsys.readouterr().err

    def test_a_settings_file_that_cannot_be_used_is_exit_code_2(
        self, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home.mkdir()
        (home / "config.toml").write_text("colour = 1\n[defaults]\ndisk = 0\n")
        assert main(["status"]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 2

    def test_an_unknown_address_stops_up_before_anything_is_made(
        self, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["up", "x"]) == 2
        assert "--ssh-from none" in capsys.readouterr().err
        assert not home.exists()


class TestDefects:
    @pytest.fixture(autouse=True)
    def _defect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(_: object) -> None:
            raise RuntimeError("with a secret")

        monkeypatch.setattr("puter_client.cli.session.settings_of", broken)

    def test_a_defect_is_one_line_without_its_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["status"]) == 1
        said = capsys.readouterr().err
        assert said.startswith("puter: internal error in Puter: RuntimeError in test_cli_commands.py:")
        assert "secret" not in said

    def test_all_of_it_is_shown_to_those_who_ask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PUTER_DEBUG", "1")
        with pytest.raises(RuntimeError):
            main(["status"])


class TestRemovedFolder:
    @pytest.fixture(autouse=True)
    def _removed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)  # where the test returns to
        gone = tmp_path / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    @pytest.mark.parametrize(
        ("words", "environ", "blamed"),
        [
            ("up x --ssh-from none --public-key k.pub", {}, "--public-key 'k.pub'"),
            ("up x --user-data setup.sh", {}, "--user-data 'setup.sh'"),
            ("submit batch.yaml", {}, "batch file 'batch.yaml'"),
            ("status", {"PUTER_HOME": "home"}, "PUTER_HOME 'home'"),
            ("status", {"PUTER_HOME": "", "HOME": "home"}, "HOME 'home'"),
        ],
    )
    def test_a_path_that_begins_there_is_one_clear_line(
        self,
        words: str,
        environ: dict[str, str],
        blamed: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert main(words.split()) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == f"puter: {blamed}: the current folder was removed: change to another one, or give a full path"

    def test_so_is_one_that_the_worker_would_get(self) -> None:
        with pytest.raises(InvalidInput, match="AWS_CONFIG_FILE 'config': the current folder was removed"):
            worker_environ({"AWS_CONFIG_FILE": "config"})

    @pytest.mark.parametrize("words", ["status", "batches", "local status", "up x --dry-run", "ssh-config"])
    def test_a_command_that_needs_nothing_there_works(self, words: str) -> None:
        assert main(words.split()) == 0


class TestDryRun:
    def test_it_shows_what_would_be_requested(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--tag", "x", "--dry-run", "--json", "--disk", "9", "--instance-type", "t3.nano"]) == 0
        fields = json.loads(capsys.readouterr().out)
        assert fields | {"namespace": "betty", "tag": "x", "disk": 9, "instance_type": "t3.nano"} == fields
        assert fields["ssh_from"] == ["auto"]

    def test_it_touches_nothing(self, home: Path) -> None:
        main(["up", "x", "--dry-run"])
        main(["submit", "--tag", "x-{i}", "--count", "3", "--dry-run"])
        assert not home.exists()

    @pytest.mark.parametrize("words", [["up", "x"], ["submit", "--tag", "x"]])
    @pytest.mark.parametrize(
        ("text", "said"),
        [(None, "file not found"), ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "is a private key"), ("", "has 0 lines")],
    )
    def test_a_key_that_cannot_be_used_is_refused_as_without_it(
        self, words: list[str], text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if text is not None:
            (tmp_path / "key").write_text(text)
        assert main([*words, "--dry-run", "--public-key", str(tmp_path / "key")]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert said in captured.err

    @pytest.mark.parametrize("words", [["up", "x"], ["submit", "--tag", "x"]])
    def test_the_users_own_key_is_shown(
        self, words: list[str], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA4xdyU1m1kHHv6Rgmi2hUcCZbkUQq3hLLq4S9Ph4uVz me"
        (tmp_path / "key.pub").write_text(line)
        assert main([*words, "--dry-run", "--json", "--public-key", str(tmp_path / "key.pub")]) == 0
        assert json.loads(capsys.readouterr().out)["public_key"] == line
        assert not home.exists()

    def test_of_a_batch_each_puter_is_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["submit", "--tag", "x-{i}", "--count", "3", "--dry-run", "--json"]) == 0
        assert [json.loads(line)["tag"] for line in capsys.readouterr().out.splitlines()] == ["x-0", "x-1", "x-2"]

    def test_a_batch_files_namespace_holds(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "b.yaml").write_text("namespace: team\nputers: [one]\n")
        assert main(["submit", str(tmp_path / "b.yaml"), "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["namespace"] == "team"

    def test_a_file_and_an_option_that_name_two_namespaces_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "b.yaml").write_text("namespace: team\nputers: [one]\n")
        assert main(["submit", str(tmp_path / "b.yaml"), "--dry-run", "-n", "mine"]) == 2


class TestWhereNothingEverWas:
    def test_status_says_how_to_begin(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["status"]) == 0
        assert capsys.readouterr().out == "nothing in namespace betty; start with: puter up --tag NAME\n"

    def test_status_of_a_namespace_that_was_named_begins_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["status", "-n", "team"]) == 0
        assert capsys.readouterr().out == "nothing in namespace team; start with: puter up --tag NAME -n team\n"

    @pytest.mark.parametrize(
        "words", [["why", "x"], ["wait", "x"], ["cancel", "x"], ["ssh", "x"], ["status", "x"], ["wait", "--batch", "b"]]
    )
    def test_a_tag_is_not_known(self, words: list[str], home: Path) -> None:
        assert (main(words), home.exists()) == (1, False)

    @pytest.mark.parametrize("words", [["batches"], ["ssh-config"], ["local", "status"], ["local", "stop"]])
    def test_looking_starts_nothing(self, words: list[str], home: Path) -> None:
        assert main(words) == 0
        assert not (home / "engine").exists()


class TestWorker:
    def test_a_missing_package_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("puter_client.cli.run_worker.find_spec", lambda name: None if name == "aioboto3" else name)
        assert main(["worker"]) == 3
        assert (
            capsys.readouterr().err
            == f"puter: aioboto3 is not installed: run `{shlex.quote(sys.executable)} -m pip install --require-hashes "
            "-r requirements/worker.txt` in the folder of Puter's source code\n"
        )

    def test_it_takes_the_place_of_the_command(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home.mkdir()
        (home / "config.toml").write_text('redis_url = "redis://r.example"\n')
        became: list[tuple[list[str], str]] = []
        monkeypatch.setattr("os.execve", lambda _, argv, env: became.append((argv[1:], env["PUTER_REDIS_URL"])))
        main(["worker", "--burst"])
        named_by = f"redis_url in {home}/config.toml"
        assert became == [(["-m", "puter_worker", "--burst", "--redis-url-from", named_by], "redis://r.example")]
