"""What can be told from the notes in the engine's locks."""

from __future__ import annotations

import msgspec
import pytest

from puter_client.local.environment import aws_settings, digest, other_settings
from puter_client.local.notes import Host, WorkerNote, is_elsewhere, this_host, why_replace

HERE = Host(name="desk", boot_id="b1", pid_namespace="pid:[1]")
SALT = "00" * 16
ENVIRON = {"AWS_PROFILE": "team", "AWS_REGION": "eu-west-1", "AWS_CONFIG_FILE": "/dev/null", "EDITOR": "ed"}
NOTE = WorkerNote(
    host=HERE,
    version="1.0",
    url="unix:///run/e.sock",
    salt=SALT,
    aws_settings=digest(aws_settings(ENVIRON), SALT),
    other_settings=digest(other_settings(ENVIRON), SALT),
    pid=7,
)


@pytest.mark.parametrize(
    ("noted", "held", "elsewhere"),
    [
        pytest.param(HERE, True, False, id="this very system, running"),
        pytest.param(HERE, False, False, id="this very system, ended"),
        pytest.param(Host(name="desk", boot_id="b0"), False, False, id="this host before its reboot"),
        pytest.param(Host(name="desk", boot_id="b0"), True, True, id="a namesake, running"),
        pytest.param(Host(name="farm", boot_id="b9"), True, True, id="another host, running"),
        pytest.param(Host(name="farm", boot_id="b9"), False, True, id="another host, perhaps running"),
        pytest.param(Host(name="c2", boot_id="b1", pid_namespace="pid:[2]"), True, True, id="a container, running"),
        pytest.param(Host(name="c2", boot_id="b1", pid_namespace="pid:[2]"), False, False, id="a container, ended"),
        pytest.param(
            Host(name="desk.lan", boot_id="b1", pid_namespace="pid:[1]"), True, False, id="a laptop in another network"
        ),
    ],
)
def test_an_engine_elsewhere_is_told_from_one_here(noted: Host, held: bool, elsewhere: bool) -> None:
    assert is_elsewhere(noted, HERE, held=held) is elsewhere


def test_this_host_is_itself() -> None:
    assert this_host().sees(this_host())


@pytest.mark.parametrize(
    ("environ", "version", "url", "reason"),
    [
        pytest.param(ENVIRON, "1.0", NOTE.url, None, id="the same"),
        pytest.param({**ENVIRON, "EDITOR": "vi"}, "1.0", NOTE.url, None, id="another editor"),
        pytest.param({**ENVIRON, "AWS_PROFILE": "own"}, "1.0", NOTE.url, "AWS_* settings", id="another profile"),
        pytest.param({"AWS_PROFILE": "team"}, "1.0", NOTE.url, "AWS_* settings", id="no region"),
        pytest.param({**ENVIRON, "AWS_ENDPOINT_URL": ""}, "1.0", NOTE.url, None, id="an empty endpoint"),
        pytest.param({**ENVIRON, "AWS_ENDPOINT_URL": "http://x"}, "1.0", NOTE.url, "AWS_* settings", id="an endpoint"),
        pytest.param({**ENVIRON, "HTTPS_PROXY": "http://x"}, "1.0", NOTE.url, "such as proxies", id="a proxy"),
        pytest.param(ENVIRON, "1.1", NOTE.url, "it ran Puter 1.0, this is 1.1", id="a new version"),
        pytest.param(ENVIRON, "1.0", "unix:///tmp/e.sock", "the server's address has changed", id="a moved server"),
    ],
)
def test_a_worker_is_replaced_for_a_reason(environ: dict[str, str], version: str, url: str, reason: str | None) -> None:
    told = why_replace(NOTE, environ=environ, version=version, url=url)
    assert told is None if reason is None else reason in (told or "")


def test_digests_of_the_same_settings_agree_whatever_their_order() -> None:
    assert digest(aws_settings(dict(reversed(ENVIRON.items()))), SALT) == NOTE.aws_settings


def test_digests_of_two_starts_compare_to_nothing() -> None:
    assert digest(aws_settings(ENVIRON), "11" * 16) != NOTE.aws_settings


def test_a_name_and_its_value_cannot_be_shifted_into_one_another() -> None:
    assert digest({"AWS_A": "B=c"}, SALT) != digest({"AWS_A=B": "c"}, SALT)


def test_a_note_holds_no_value_of_a_setting() -> None:
    assert b"team" not in msgspec.json.encode(NOTE)
