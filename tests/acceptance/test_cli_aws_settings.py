"""AWS settings that cannot be used: one line with what to do, exit code 2, and nothing that served is lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.cli_world import CliWorld
from tests.integration.engine_world import wait_for

BROKEN = {
    "an absent profile": (b"", {"AWS_PROFILE": "gone"}, "AWS_PROFILE is 'gone'"),
    "an absent profile of the old name": (b"", {"AWS_DEFAULT_PROFILE": "gone"}, "AWS_DEFAULT_PROFILE is 'gone'"),
    "text outside of sections": (b"region = eu-west-1\n", {}, "line 1: cannot be parsed"),
    "a line that is no setting": (b"[default]\nregion = eu-west-1\nhello\n", {}, "line 3: cannot be parsed"),
    "a section that is there twice": (b"[profile a]\n\n[profile a]\n", {}, "line 3: the section 'profile a'"),
    "a setting that is there twice": (b"[profile a]\nx = 1\nx = 2\n", {}, "line 3: the setting 'x'"),
    "no UTF-8": (b"[profile a]\n# caf\xe9\n", {}, "line 2: is not valid UTF-8"),
    "nested settings that are none": (b"[default]\ns3 =\n  hello\n", {}, "cannot be parsed"),
    "no region": (b"", {"AWS_REGION": "UP_NORTH"}, "'UP_NORTH'"),
    "no certificates": (b"", {"AWS_CA_BUNDLE": "/nowhere/ca.pem"}, "AWS_CA_BUNDLE '/nowhere/ca.pem'"),
    "no endpoint": (b"", {"AWS_ENDPOINT_URL": "hello"}, "Invalid endpoint: hello"),
    "no proxy": (b"", {"AWS_ENDPOINT_URL": "https://ec2.test", "HTTPS_PROXY": "socks5://x:hunter2@y"}, "HTTPS_PROXY"),
}
EACH = pytest.mark.parametrize(("config", "variables", "words"), BROKEN.values(), ids=BROKEN)
SECRET = b"aws_secret_access_key = wJalrXUtnFEMI\n"


def config_of(world: CliWorld) -> Path:
    path = world.home.parent / "aws-config"
    world.environ["AWS_CONFIG_FILE"] = str(path)
    return path


@EACH
def test_a_worker_refuses_them_when_it_starts(
    tmp_path: Path, config: bytes, variables: dict[str, str], words: str
) -> None:
    path = tmp_path / "config"
    path.write_bytes(config)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    ran = subprocess.run(
        [sys.executable, "-m", "puter_worker"],
        env={**kept, "PUTER_REDIS_URL": "redis://127.0.0.1:1", "AWS_CONFIG_FILE": str(path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("puter worker: ")
    assert words in line
    assert not config or str(path) in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "name", ["AWS_PROFILE", "AWS_REGION", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_ENDPOINT_URL"]
)
def test_a_variable_that_is_empty_is_one_that_is_not_set(name: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    ran = subprocess.run(
        [sys.executable, "-m", "puter_worker", "--check-aws-settings"],
        env={**kept, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, name: ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (0, "")


def test_no_line_of_a_config_is_quoted(fresh: CliWorld) -> None:
    config_of(fresh).write_bytes(SECRET)

    ran = fresh.puter("local", "start")

    assert ran.code == 2
    assert "wJalrXUtnFEMI" not in ran.err
    assert "wJalrXUtnFEMI" not in (fresh.paths.logs / "worker.out").read_text()


def test_a_command_says_it_in_a_line_and_leaves_nothing_behind(fresh: CliWorld) -> None:
    ran = fresh.puter("up", "build", AWS_PROFILE="gone")

    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith("puter: AWS_PROFILE is 'gone', and the AWS config")
    assert fresh.puter("local", "status").out.startswith("engine  stopped")


def test_a_worker_that_serves_is_not_replaced_by_one_that_would_not_start(fresh: CliWorld) -> None:
    assert fresh.puter("local", "start").code == 0
    before = fresh.processes()

    assert fresh.puter("local", "start", AWS_PROFILE="gone").code == 2

    assert fresh.processes() == before
    assert fresh.puter("local", "start").err == ""  # nor is it replaced now


def test_settings_are_checked_by_puter_and_by_nothing_that_lies_in_the_commands_folder(fresh: CliWorld) -> None:
    assert fresh.puter("local", "start").code == 0
    lies = fresh.home.parent / "puter_worker"
    lies.mkdir()
    (lies / "__init__.py").touch()
    (lies / "__main__.py").write_text("raise SystemExit(2)\n")

    assert fresh.puter("local", "start", AWS_REGION="eu-west-1").code == 0


def test_while_a_worker_runs_requests_wait_for_a_config_that_is_broken_and_go_on_when_it_is_not(
    fresh: CliWorld,
) -> None:
    config = config_of(fresh)
    config.write_text("[default]\nregion = us-east-1\n")
    assert fresh.puter("local", "start").code == 0
    config.write_text("[default]\nregion = us-east-1\n[profile lab]\nhello\n")

    fresh.puter("submit", "--tag", "x", "--count", "1", "--ssh-from", "none", "--profile", "lab")

    def why() -> str:
        (told,) = fresh.puter("status", "--json").objects()
        return str(told["reason"])

    wait_for(lambda: f"'{config}': line 4: cannot be parsed" in why(), "the reason")
    assert why().startswith("waiting for AWS credentials")
    config.write_text(
        "[default]\nregion = us-east-1\n[profile lab]\naws_access_key_id = a\naws_secret_access_key = b\n"
    )
    assert fresh.puter("wait", "x", "--timeout", "60s").code == 0


def test_a_proxy_that_is_right_again_is_used_by_the_next_command(fresh: CliWorld) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{nobody.getsockname()[1]}"
        proxy = {"HTTP_PROXY": f"http://{where}"}
        fresh.puter("submit", "--tag", "x", "--count", "1", "--ssh-from", "none", **proxy)

        def why() -> str:
            (told,) = fresh.puter("status", "--json", **proxy).objects()
            return str(told["reason"])

        wait_for(lambda: f"was not reached: the proxy {where} refused the connection" in why(), "the reason")

    ran = fresh.puter("wait", "x", "--timeout", "60s")

    assert ran.code == 0
    assert "replacing the engine's worker: variables of its environment that it needs, such as proxies" in ran.err
