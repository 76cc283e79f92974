"""How a workload's variables reach it: as under env(1), whatever they are called, and never in a command line."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from puter_client.contract.key import PuterKey
from puter_worker.ec2 import userdata
from puter_worker.ec2.userdata import Boot, Machine, compose
from tests.integration.standin_machine import TOOLS, StandIn

SCRIPT = Path(userdata.__file__).with_name("agent.sh").read_text(encoding="utf-8")
# Whatever the script calls its own, environment variables of its callers among them.
SCRIPTS_OWN = sorted(
    {*re.findall(r"\b([A-Za-z_]+)=", SCRIPT), *re.findall(r"\$\{?([A-Za-z_]+)", SCRIPT), "pair"} - {"IFS"}
)
# Variables with a meaning to bash, the dynamic linker or the C library.
MEANINGFUL = (
    "BASH", "BASH_ALIASES", "BASH_ARGV0", "BASH_CMDS", "BASH_COMMAND", "BASH_COMPAT", "BASH_ENV", "BASH_SUBSHELL",
    "BASH_VERSION", "BASH_XTRACEFD", "CDPATH", "COLUMNS", "COMP_WORDBREAKS", "DIRSTACK", "ENV", "EPOCHREALTIME",
    "EPOCHSECONDS", "FUNCNAME", "FUNCNEST", "GLOBIGNORE", "GROUPS", "HISTCMD", "HISTFILE", "HOME", "HOSTNAME", "IFS",
    "IGNOREEOF", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "LD_PRELOAD", "LINENO", "MAILCHECK", "MAPFILE",
    "OLDPWD", "OPTARG", "OPTERR", "OPTIND", "OSTYPE", "PATH", "POSIXLY_CORRECT", "PROMPT_COMMAND", "PS1", "PS4", "PWD",
    "RANDOM", "READLINE_LINE", "REPLY", "SECONDS", "SHELL", "SRANDOM", "TEXTDOMAIN", "TMOUT", "TMPDIR", "TZ", "USER",
)  # fmt: skip
ENV = shutil.which("env") or "env"


def machine(folder: Path, run: str, env: dict[str, str]) -> StandIn:
    one = Machine(key=PuterKey("alice", "sweep-17"), generation=1, run=run, env=env, user_data=None)
    return StandIn(folder, compose(Boot(ttl_s=3_600, nonce="0" * 16, expires_at="never", user="ec2-user"), [one]))


def arrived(folder: Path, env: dict[str, str]) -> dict[str, str]:
    """The environment of a workload's processes on a machine."""
    seen = folder / "seen"
    host = machine(folder, f"{ENV} -0 >{seen}", env).boot()
    assert host.exit_code == "0"
    return dict(pair.split("=", 1) for pair in seen.read_bytes().decode().split("\0")[:-1])


def test_variables_with_names_of_the_script_reach_the_workload(tmp_path: Path) -> None:
    env = {name: f"value of {name}" for name in SCRIPTS_OWN}

    seen = arrived(tmp_path, env)

    assert {name: seen.get(name) for name in env} == env


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return machine(tmp_path_factory.mktemp("machine"), "true", {}).boot()


@pytest.mark.parametrize("value", ["CA", "", "a b"])
@pytest.mark.parametrize("name", MEANINGFUL)
def test_a_variable_with_a_meaning_arrives_as_under_env(booted: StandIn, name: str, value: str) -> None:
    # Whether this shell has the value, and whether its children do.
    run = f"""[ "${{{name}-unset}}" = '{value}' ]; printf '%s' "$?"; exec {ENV} -0"""
    (booted.state / "workload.run").write_text(run)
    (booted.state / "workload.env").write_text(f"{name}={value}\0")

    by_task = booted.run(f"{booted.root}/usr/local/sbin/puter-agent", "task")
    by_env = booted.run(ENV, f"{name}={value}", "/bin/bash", str(booted.state / "workload.run"))

    def seen(told: subprocess.CompletedProcess[str]) -> tuple[int, str, bool]:
        return told.returncode, told.stdout[:1], f"\0{name}={value}\0" in "\0" + told.stdout[1:]

    assert seen(by_task) == seen(by_env)


def test_all_of_many_variables_arrive_whatever_their_values(tmp_path: Path) -> None:
    odd = [
        "",
        " ",
        "\n",
        "a\nb\n",
        "=",
        "a=b=c",
        "'",
        '"',
        "\\",
        "$HOME",
        "`id`",
        "$(id)",
        "*",
        "ü €",
        "\t",
        "\r",
        "%s",
    ]
    env = {f"V{n}": odd[n % len(odd)] for n in range(300)}

    seen = arrived(tmp_path, env)

    assert {name: seen.get(name) for name in env} == env


def test_a_workload_without_variables_prints_none(tmp_path: Path) -> None:
    host = machine(tmp_path, "true", {}).boot()

    assert (host.root / "var/log/puter/workload.log").read_text() == ""


def test_no_value_is_in_a_command_line(tmp_path: Path) -> None:
    host = machine(tmp_path, 'printf %s "$TOKEN"', {"TOKEN": "hunter2", "state": "hunter2"})
    for name in TOOLS:
        told = host.machine / "bin" / name
        told.unlink()
        told.write_text(f'#!/bin/sh\necho "{name} $*" >>"$MACHINE/calls"\nexec {shutil.which(name)} "$@"\n')
        told.chmod(0o755)

    host.boot()

    assert (host.root / "var/log/puter/workload.log").read_text() == "hunter2"
    assert not [call for call in host.calls if "hunter2" in call]
