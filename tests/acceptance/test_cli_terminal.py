"""Commands on a terminal: what is live, and what Ctrl-C does."""

from __future__ import annotations

import os
import re
import signal
import socket
from typing import Any

import boto3
import pytest

from tests.acceptance.cli_world import CliWorld, ended
from tests.ec2sim.images import RED_HAT

# No worker serves this type's zones in the simulated EC2, so that its request waits.
WAITS = ("--for", "terminated")
OTHERS_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g other"


def test_up_shows_a_live_line_and_takes_it_away(betty: CliWorld) -> None:
    code, shown = ended(betty.on_terminal("up", "live"))
    assert code == 0
    assert re.search(r"\r\x1b\[Klive: (queued|resolving|launching|pending|running)", shown)
    assert "\x1b[Ktag       betty/live (created)" in shown


def test_a_batch_shows_a_bar_with_counts_by_phase(betty: CliWorld) -> None:
    terminal = betty.on_terminal("submit", "--tag", "bar-{i}", "--count", "5", "--wait", "running")
    terminal.expect(r"/5")
    code, shown = ended(terminal)
    assert code == 0
    assert "5 running" in shown
    assert "5 puters: 5 created" in shown


@pytest.mark.parametrize(
    "words", ["up noted", "submit --tag noted --wait running", "submit --tag noted-{i} --count 2 --wait running"]
)
def test_each_of_many_notes_is_a_line_of_its_own(fresh: CliWorld, words: str) -> None:
    aws = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name="us-east-1")
    ec2: Any = aws.client("ec2", endpoint_url=fresh.environ["AWS_ENDPOINT_URL"])
    ec2.import_key_pair(KeyName="puter-v1", PublicKeyMaterial=OTHERS_KEY)
    ec2.create_security_group(GroupName="puter-v1", Description="-")
    rhel = ec2.describe_images(Owners=[RED_HAT])["Images"][0]["ImageId"]

    code, shown = ended(fresh.on_terminal(*words.split(), "--ami", rhel, "--ssh-from", "0.0.0.0/0,::/0"))

    # What is written between two moves of the cursor is a line.
    lines = re.split(r"[\r\n]|\x1b\[\d*[A-Za-z]", shown)
    said = [line for line in lines if line.startswith("puter: ")]
    beginnings = [
        "puter: warning: ssh is open to every address (0.0.0.0/0)",
        "puter: warning: ssh is open to every address (::/0)",
        "puter: starting the local engine",
        f"puter: note: image {rhel} ('RHEL",
        "puter: note: EC2 holds another key under the name 'puter-v1'",
        "puter: note: Puter did not make the security group 'puter-v1'",
    ]
    assert (code, len(said)) == (0, len(beginnings)), said
    assert [line for line, beginning in zip(said, beginnings, strict=True) if not line.startswith(beginning)] == []
    assert [line for line in said if "EC2 holds" in line and "Puter did" in line] == []


def test_ctrl_c_ends_the_waiting_and_says_how_to_come_back(betty: CliWorld) -> None:
    betty.puter("submit", "--tag", "stay-{i}", "--count", "2", "--wait", "running")
    terminal = betty.on_terminal("wait", "stay-0", "stay-1", *WAITS)
    terminal.expect("/2")
    terminal.sendintr()
    code, shown = ended(terminal)
    assert code == 130
    assert "the requests continue; resume with:" in shown
    assert "\n  puter wait stay-0 stay-1 --for terminated\r\n  puter status stay-0 stay-1" in shown
    assert "Traceback" not in shown


def test_ctrl_c_before_anything_was_sent_promises_nothing(fresh: CliWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}?socket_timeout=300"
        terminal = fresh.on_terminal("up", "early", PUTER_REDIS_URL=url)
        connection, _ = silent.accept()
        with connection:
            terminal.sendintr()
            code, shown = ended(terminal)
    assert code == 130
    assert "puter:" not in shown


def test_a_redis_that_is_lost_while_it_is_waited_says_how_to_come_back(fresh: CliWorld) -> None:
    fresh.up("lost")
    terminal = fresh.on_terminal("wait", "lost", *WAITS)
    terminal.expect("lost: running")
    os.kill(int((fresh.paths.engine / "server.pid").read_text()), signal.SIGKILL)
    code, shown = ended(terminal)
    assert code == 3
    assert "resume with:\r\n  puter wait lost --for terminated\r\n  puter why lost" in shown


def test_ctrl_c_ends_a_watch_without_a_word(betty: CliWorld) -> None:
    betty.up("watched")
    terminal = betty.on_terminal("status", "watched", "--watch")
    terminal.expect("total 1: 1 running")
    terminal.sendintr()
    code, shown = ended(terminal)
    assert (code, "puter:" in shown) == (130, False)


def test_without_colour_nothing_is_coloured(betty: CliWorld) -> None:
    betty.up("grey")
    _, shown = ended(betty.on_terminal("status", "grey", NO_COLOR="1"))
    assert not re.search(r"\x1b\[\d+m", shown)


def test_a_narrow_terminal_keeps_the_tag(betty: CliWorld) -> None:
    betty.up("narrow-is-whole")
    _, shown = ended(betty.on_terminal("status", "narrow-is-whole", columns=30, NO_COLOR="1"))
    assert "\nnarrow-is-whole  running" in shown
