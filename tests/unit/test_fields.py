"""From written fields to a checked spec: what is read, and how a refusal says what to write instead."""

from __future__ import annotations

import random
import string
from typing import Any

import msgspec
import pytest

from puter_client.contract.fields import MAX_AWS_TAGS, InvalidSpec, build_spec, parse_cidr, recheck_spec
from puter_client.contract.os_image import Os
from puter_client.contract.spec import Spec

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPx8Tn8wJmVvLq1uwRWhGtg5zT8p7xyk8vJ4k8jVvq3Z"
GOOD: list[tuple[str, Any, str, Any]] = [
    ("profile", "work", "profile", "work"),
    ("region", "us-gov-west-1", "region", "us-gov-west-1"),
    ("instance_type", "u-6tb1.metal", "instance_type", "u-6tb1.metal"),
    ("os", "al2", "os", Os.AL2),
    ("ami", "ami-0123456789abcdef0", "ami", "ami-0123456789abcdef0"),
    ("subnet", "subnet-12345678", "subnet", "subnet-12345678"),
    ("spot", "true", "spot", True),
    ("spot", False, "spot", False),
    ("alone", "true", "alone", True),
    ("disk", "30", "disk", 30),
    ("disk", 65_536, "disk", 65_536),
    ("run", "make\n", "run", "make\n"),
    ("run", "make\r\nmake test\r\n", "run", "make\nmake test\n"),
    ("run", "make\r\r\nmake test\r", "run", "make\nmake test"),
    ("run", "printf 'a\rb' # \r c", "run", "printf 'a\rb' # \r c"),
    ("user_data", "#!/bin/sh\r\nmake\r\n", "user_data", "#!/bin/sh\r\nmake\r\n"),
    ("key_name", "my key", "key_name", "my key"),
    ("public_key", f"{ED25519} me@here", "public_key", f"{ED25519} me@here"),
    ("ssh_from", "192.0.2.1", "ssh_from", ("192.0.2.1/32",)),
    ("ssh_from", ["2001:db8::/32", "192.0.2.0/24"], "ssh_from", ("192.0.2.0/24", "2001:db8::/32")),
    ("ssh_from", "none", "ssh_from", ()),
    ("aws_tags", {"team": "render", "cost": 7}, "aws_tags", {"team": "render", "cost": "7"}),
    ("ttl", "90m", "ttl_s", 5_400),
    ("no_shutdown", True, "ttl_s", None),
    *[("os", os.value, "os", os) for os in Os],
    *[("ssh_user", user, "ssh_user", user) for user in ("build", "root", "First.Last", "_svc-1")],
    ("no_shutdown", False, "ttl_s", 3_600),
    ("instance_type", None, "instance_type", "t3.micro"),
]


@pytest.mark.parametrize(("name", "written", "field", "value"), GOOD)
def test_a_good_field_is_read(name: str, written: Any, field: str, value: Any) -> None:
    assert getattr(build_spec({name: written}), field) == value


BAD: list[tuple[str, Any, str]] = [
    ("profile", "a/b", "name of an AWS profile"),
    ("profile", "-x\n", "name of an AWS profile"),
    ("region", "Virginia", "like us-east-1"),
    ("instance_type", "t3", "like t3.micro"),
    ("instance_type", "t3.micro; rm", "like t3.micro"),
    ("os", "ubuntu", "write one of al2023, al2, ubuntu24.04, ubuntu22.04, debian12, al2023-gpu"),
    ("ssh_user", "-oProxyCommand=x", "name of a user on the image"),
    ("ssh_user", "a b", "name of a user on the image"),
    ("ssh_user", "$(reboot)", "name of a user on the image"),
    ("ssh_user", "u@host", "name of a user on the image"),
    ("ssh_user", "x" * 33, "name of a user on the image"),
    ("ssh_user", ["root"], "is a list"),
    ("os", ["al2"], "is a list"),
    ("user_data", "hello world", "does not say what it is: begin it with #!"),
    ("user_data", "#include https://example.com/x", "cloud-init would fetch it before the machine has a deadline"),
    ("ami", "ami-xyz", "like ami-"),
    ("subnet", "vpc-12345678", "like subnet-"),
    ("spot", "yes", "true, false or prefer"),
    ("disk", 0, "1 to 65536"),
    ("disk", 1.5, "1 to 65536"),
    ("disk", True, "1 to 65536"),
    ("run", "  ", "is empty"),
    ("run", "\r\n\r\n", "is empty"),
    ("run", "x" * 16_385, "over 16,384 bytes"),
    ("run", "a\0b", "NUL"),
    ("run", ["make"], "is a list"),
    ("run", "\ud800", "UTF-8"),
    ("env", {"A": "1"}, "write run as well"),
    ("env", "A=1", "is a text"),
    ("env", {"B": "1", "A": [1]}, "'A': is a list"),
    ("key_name", "ключ", "printable ASCII"),
    ("public_key", "-----BEGIN OPENSSH PRIVATE KEY-----", "OpenSSH public key"),
    ("public_key", f"ssh-dss {ED25519.split()[1]}", "OpenSSH public key"),
    ("security_group_name", "sg-12345678", "not sg-"),
    ("ssh_from", "192.0.2.1/24", "bits set beyond its prefix: write 192.0.2.0/24, or 192.0.2.1 for that one host"),
    ("ssh_from", "2001:db8::1/32", "write 2001:db8::/32, or 2001:db8::1 for that one host"),
    ("ssh_from", "everywhere", "CIDR like"),
    ("ssh_from", "fe80::1%eth0", "CIDR like"),
    ("ssh_from", "fe80::1%1/128", "CIDR like"),
    ("ssh_from", "::ffff:192.0.2.7", "is an IPv4 address in IPv6's form: write 192.0.2.7/32"),
    ("ssh_from", "::ffff:c000:200/120", "write 192.0.2.0/24"),
    ("ssh_from", "0.0.0.0/00", "CIDR like"),
    ("ssh_from", "192.0.2.7/032", "CIDR like"),
    ("ssh_from", "192.0.2.0/255.255.255.0", "CIDR like"),
    ("ssh_from", "192.0.2.0/0.0.0.255", "CIDR like"),
    ("ssh_from", ["192.0.2.0 /24"], "CIDR like"),
    ("ssh_from", ["192.0.2.0/ 24"], "CIDR like"),
    ("ssh_from", "192.0.2.0/33", "CIDR like"),
    ("ssh_from", "192.0.2.0/", "CIDR like"),
    ("ssh_from", "192.0.02.1", "CIDR like"),
    ("ssh_from", "192.0.2.\u0667", "CIDR like"),
    ("ssh_from", "https://x", "CIDR like"),
    ("ssh_from", 7, "is a number"),
    ("ssh_from", [f"192.0.2.{n}" for n in range(21)], "has 21 addresses: write at most 20"),
    ("env", {f"A{n}": "" for n in range(501)}, "has 501 names: write at most 500"),
    ("env", {"A" * 100 + str(n): "x" * 100 for n in range(90)}, "names and values have over 16,384 bytes"),
    ("retry_on", ["failed"] * 258, "has 258 values: write each once"),
    ("retry_on", ["9" * 5_000], "write failed, timed_out or exit codes"),
    ("region", "us-east-" * 10_000, "write one like us-east-1"),
    ("user_data", "#cloud-config\na: [" + "a," * 1_100 + "]", "over 1,000 values: write what is long as a script"),
    ("aws_tags", {"Name": "x"}, "are taken"),
    ("aws_tags", {"puter:tag": "x"}, "are taken"),
    ("aws_tags", {"a\n": "x"}, "none of them a control character"),
    ("aws_tags", {"a b": "\x1b"}, "'a b': the value contains a control character"),
    ("aws_tags", {"a b": ["x"]}, "'a b': is a list"),
    ("aws_tags", {"a": "x" * 257}, "256 characters"),
    ("aws_tags", {f"k{n}": "" for n in range(MAX_AWS_TAGS + 1)}, f"at most {MAX_AWS_TAGS}"),
    ("ttl", "60", "like 90s"),
    ("ttl", "59s", "1m to 365d"),
    ("ttl", "\u0661m", "like 90s"),
    ("ttl", "366d", "1m to 365d"),
    ("colour", "blue", "known are"),
]


@pytest.mark.parametrize(("name", "written", "remedy"), BAD)
def test_a_bad_field_is_refused_in_one_line_that_says_what_to_write(name: str, written: Any, remedy: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        build_spec({name: written})

    (problem,) = refused.value.problems
    assert name in problem
    assert remedy in problem
    assert problem.isprintable()


def test_every_bad_field_is_told_not_only_the_first() -> None:
    with pytest.raises(InvalidSpec) as refused:
        build_spec({"ami": "x", "disk": 0, "spot": "maybe", "region": "us-east-1"})

    assert [problem.field for problem in refused.value.field_problems] == ["ami", "disk", "spot"]


def test_a_time_to_live_and_none_exclude_each_other() -> None:
    with pytest.raises(InvalidSpec, match="exclude each other"):
        build_spec({"ttl": "1h", "no_shutdown": True})


def test_a_refusal_shows_no_value_of_a_variable() -> None:
    with pytest.raises(InvalidSpec) as refused:
        build_spec({"run": "x", "env": {"PASSWORD=hunter2": "hunter2", "A": ["hunter2"]}})

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        *("_", "BASHOPTS", "BASHPID", "BASH_ARGC", "BASH_ARGV", "BASH_LINENO", "BASH_SOURCE", "BASH_VERSINFO", "EUID"),
        *("PIPESTATUS", "PPID", "SHELLOPTS", "SHLVL", "UID"),
    ],
)
def test_a_variable_that_bash_sets_itself_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        build_spec({"run": "make", "env": {name: "hunter2"}})

    assert str(refused.value) == f"env: '{name}': bash sets this variable itself: give yours another name"


@pytest.mark.parametrize("name", ["BASH_FUNC_x%%", "A-B", "1A", "A\n", ""])
def test_what_no_shell_takes_as_the_name_of_a_variable_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec, match="name variables with letters, digits and _"):
        build_spec({"run": "make", "env": {name: "1"}})


@pytest.mark.parametrize(("name", "written", "field", "value"), GOOD)
def test_what_was_built_passes_a_second_check(name: str, written: Any, field: str, value: Any) -> None:
    del field, value

    recheck_spec(build_spec({name: written}))


@pytest.mark.parametrize(
    "forged",
    [
        {"instance_type": ""},
        {"instance_type": "../x"},
        {"ami": ""},
        {"disk": -1},
        {"ttl_s": 1},
        {"ttl_s": 10**12},
        {"ssh_from": ("192.0.2.1",)},
        {"ssh_from": ("192.0.2.1/32", "192.0.2.0/32")},
        {"env": {"A B": "x"}},
        {"aws_tags": {"puter:owner": "root"}},
        {"run": "x" * 20_000},
        {"give_up_after_s": 0},
    ],
)
def test_a_forged_spec_does_not_pass(forged: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec):
        recheck_spec(msgspec.structs.replace(Spec(), **forged))


@pytest.mark.parametrize(
    ("text", "cidr"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        (" 192.0.2.0/24 ", "192.0.2.0/24"),
        ("::1", "::1/128"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
        ("::/95", "::/95"),
    ],
)
def test_an_address_is_written_one_way(text: str, cidr: str) -> None:
    assert parse_cidr(text) == cidr


def test_what_cannot_fit_together_is_refused_before_it_is_submitted() -> None:
    dice = random.Random(1)
    written = {name: "#!" + "".join(dice.choices(string.printable, k=12_000)) for name in ("run", "user_data")}

    with pytest.raises(
        InvalidSpec, match=r"user_data: with run, env and user_data together it has \d\d,\d{3} bytes gzipped"
    ):
        build_spec(written | {"user_data": written["user_data"] + "x"})


def test_what_fits_when_it_is_packed_is_taken() -> None:
    written = dict.fromkeys(("run", "user_data"), "#!" + "x" * 16000)

    assert build_spec(written).run == written["run"]
