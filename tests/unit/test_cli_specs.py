"""From options to specs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from puter_client import address
from puter_client.address import AddressUnknown
from puter_client.cli import submit
from puter_client.cli.specs import SshSources, described, given_fields, given_names, one_spec, warn_of, without_a_rule
from puter_client.config import ClientSettings, Config, client_settings
from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import FIELDS
from puter_client.contract.os_image import Os
from puter_client.contract.spec import Spec
from puter_client.paths import Paths

SIMULATED = {"AWS_ENDPOINT_URL": "http://127.0.0.1:5000"}


def settings(**defaults: Any) -> ClientSettings:
    paths = Paths.from_environ({"PUTER_HOME": "/srv/puter"})
    return client_settings(SIMULATED, namespace="betty", config=Config(defaults=defaults), paths=paths)


def spec(options: dict[str, Any], **defaults: Any) -> Spec:
    return one_spec(settings(**defaults), given_fields(options, {}), SshSources(SIMULATED))


def problems(options: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(InvalidInput) as caught:
        spec(options)
    return caught.value.problems


@pytest.fixture
def unknown_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers where this machine's address is requested."""
    monkeypatch.setattr(address, "CHECK_URL", "http://127.0.0.1:1/")


class TestGivenFields:
    def test_what_was_not_given_is_no_field(self) -> None:
        assert given_fields({"region": None, "env": (), "spot": None}, {}) == {}

    def test_no_spot_is_an_answer(self) -> None:
        assert given_fields({"spot": False}, {}) == {"spot": False}

    def test_a_variables_value_may_hold_everything(self) -> None:
        assert given_fields({"env": ("A=b=c", "B=")}, {}) == {"env": {"A": "b=c", "B": ""}}

    @pytest.mark.parametrize(("field", "option"), [("env", "--env"), ("aws_tags", "--aws-tag")])
    def test_of_two_values_of_a_name_none_is_lost_in_silence(self, field: str, option: str) -> None:
        with pytest.raises(InvalidInput, match=f"{option} 'A': duplicate name; keep one"):
            given_fields({field: ("A=1", "B=1", "A=2")}, {})

    def test_a_bare_name_is_taken_from_the_environment(self) -> None:
        assert given_fields({"env": ("TOKEN",)}, {"TOKEN": "s3cret"}) == {"env": {"TOKEN": "s3cret"}}

    def test_a_bare_name_that_is_not_set_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match=r"--env 'TOKEN': is not set here; write TOKEN=VALUE"):
            given_fields({"env": ("TOKEN",)}, {})

    def test_a_tag_needs_a_value(self) -> None:
        with pytest.raises(InvalidInput, match="--aws-tag 'team': write it as KEY=VALUE"):
            given_fields({"aws_tags": ("team",)}, {})

    @pytest.mark.parametrize("written", [("a", "b"), ("a b",), ("a,b",)])
    @pytest.mark.parametrize("name", ["instance_type", "subnet", "ssh_from"])
    def test_several_values_are_a_list_however_they_are_written(self, name: str, written: tuple[str, ...]) -> None:
        assert given_fields({name: written}, {}) == {name: ["a", "b"]}

    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_user_data_is_read_from_its_file(self, tmp_path: Path, mark: str) -> None:
        (tmp_path / "setup.sh").write_text(f"{mark}#!/bin/sh\n")
        assert given_fields({"user_data": str(tmp_path / "setup.sh")}, {}) == {"user_data": "#!/bin/sh\n"}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"#!/bin/sh\n\xff", "is not valid UTF-8: save it as UTF-8"),
            (b"\xff\xfe#\0", "is not valid UTF-8: save it as UTF-8"),
            (b"#" + "ü".encode() * 8_192, "is over 16 KB: EC2 takes no more user data in all"),
            (b"\xef\xbb\xbf" + b"#" * 16_384, "is over 16 KB: EC2 takes no more user data in all"),
        ],
    )
    def test_user_data_that_is_no_text_or_too_large_is_refused(
        self, tmp_path: Path, content: bytes, message: str
    ) -> None:
        path = tmp_path / "setup.sh"
        path.write_bytes(content)
        with pytest.raises(InvalidInput) as refused:
            given_fields({"user_data": str(path)}, {})
        assert str(refused.value) == f"--user-data '{path}': {message}"

    def test_user_data_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match=r"--user-data .*does not exist"):
            given_fields({"user_data": str(tmp_path / "gone")}, {})


class TestOneSpec:
    def test_every_field_has_its_option(self) -> None:
        from puter_client.cli.up import up

        assert set(FIELDS) - {"private_key_path"} <= {option.name for option in up.params}

    def test_options_win_over_defaults(self) -> None:
        made = spec({"region": "eu-west-1", "env": ("A=2",), "run": "x"}, region="us-east-1", env={"A": "1", "B": "1"})
        assert (made.region, made.env) == ("eu-west-1", {"A": "2", "B": "1"})

    def test_a_ttl_wins_over_a_default_of_none(self) -> None:
        assert spec({"ttl": "2h"}, no_shutdown=True).ttl_s == 7_200

    def test_problems_name_the_options_all_at_once(self) -> None:
        options = {"disk": "big", "ssh_from": ("everybody",), "aws_tags": ("Name=x",), "env": ("A=1",)}
        starts = [problem.split(":")[0] for problem in problems(options)]
        assert sorted(starts) == ["--aws-tag", "--disk", "--env", "--ssh-from"]

    def test_values_of_variables_are_never_shown(self) -> None:
        assert "s3cret" not in str(problems({"env": ("1A=s3cret",), "run": "x"}))

    def test_both_a_ttl_and_none_is_refused_in_the_words_of_options(self) -> None:
        assert problems({"ttl": "1h", "no_shutdown": True}) == (
            "--no-shutdown: and --ttl exclude each other: keep one",
        )

    def test_the_file_of_a_public_key_is_no_field(self) -> None:
        assert spec({}, public_key="~/.ssh/id.pub").public_key is None


class TestSshFrom:
    def test_a_simulated_aws_is_reached_from_loopback(self) -> None:
        assert spec({}).ssh_from == ("127.0.0.1/32",)

    @pytest.mark.parametrize(
        ("words", "cidrs"),
        [
            (("none",), ()),
            (("203.0.113.7",), ("203.0.113.7/32",)),
            (("auto", "198.51.100.0/24"), ("127.0.0.1/32", "198.51.100.0/24")),
        ],
    )
    def test_what_is_written_holds(self, words: tuple[str, ...], cidrs: tuple[str, ...]) -> None:
        assert spec({"ssh_from": words}).ssh_from == cidrs

    def test_the_settings_hold_where_no_option_says_otherwise(self) -> None:
        assert spec({}, ssh_from="none").ssh_from == ()

    @pytest.mark.usefixtures("unknown_address")
    def test_an_unknown_address_is_refused_with_the_choices(self) -> None:
        with pytest.raises(AddressUnknown, match="--ssh-from none"):
            one_spec(settings(), {}, SshSources({}))

    @pytest.mark.usefixtures("unknown_address")
    def test_nothing_is_looked_up_where_a_network_is_written(self) -> None:
        assert one_spec(settings(), {"ssh_from": ["none"]}, SshSources({})).ssh_from == ()

    @pytest.mark.usefixtures("unknown_address")
    def test_a_dry_run_looks_nothing_up_and_says_so(self) -> None:
        sources = SshSources({}, look_up=False)
        one_spec(settings(), {}, sources)
        assert sources.skipped

    @pytest.mark.usefixtures("unknown_address")
    def test_a_batch_of_workloads_goes_on_without_a_rule(self) -> None:
        sources = SshSources({})
        assert sources(()) == ()
        assert sources.unknown is not None
        assert "--ssh-from CIDR" in without_a_rule([Spec(run="x")], sources.unknown)

    def test_a_batch_with_a_machine_that_only_ssh_reaches_does_not(self) -> None:
        with pytest.raises(AddressUnknown):
            without_a_rule([Spec(run="x"), Spec()], AddressUnknown("not known"))

    @pytest.mark.usefixtures("unknown_address")
    def test_an_auto_that_was_written_is_never_passed_over(self) -> None:
        with pytest.raises(AddressUnknown):
            SshSources({})(("auto",))


class TestWarnings:
    def told(self, *specs: Spec) -> list[str]:
        said: list[str] = []
        warn_of(specs, said.append)
        return said

    def test_a_door_open_to_everybody_is_told_once(self) -> None:
        (text,) = self.told(Spec(ssh_from=("0.0.0.0/0",)), Spec(ssh_from=("0.0.0.0/0",)))
        assert "0.0.0.0/0" in text

    def test_an_os_without_support_is_told(self) -> None:
        assert "2026-06-30" in self.told(Spec(os=Os.AL2))[0]

    def test_what_is_fine_is_no_warning(self) -> None:
        assert self.told(Spec(ssh_from=("203.0.113.7/32",))) == []


def test_a_dry_run_shows_names_of_variables_and_no_values() -> None:
    fields = described("one", "betty", Spec(run="x", env={"TOKEN": "s3cret"}, user_data="secret script"))
    assert fields["env"] == ["TOKEN"]
    assert fields["user_data"] == "13 bytes"


class TestSettingsAndBatchFiles:
    FILE = b"defaults:\n  region: eu-west-1\n  no_shutdown: true\n  run: x\n  env: {A: file}\nputers: [one]\n"

    def entry(self, options: dict[str, Any], **defaults: Any) -> Spec:
        batch = submit._read("-", None, settings(**defaults), options, SshSources(SIMULATED))
        (entry,) = batch.entries
        return entry.spec

    @pytest.fixture(autouse=True)
    def _file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("puter_client.batch.read_source", lambda _: self.FILE)

    def test_the_files_defaults_win_over_the_settings(self) -> None:
        made = self.entry({}, region="us-east-1", ttl="1h", disk=9, env={"A": "config", "B": "config"})
        assert (made.region, made.ttl_s, made.disk) == ("eu-west-1", None, 9)
        assert made.env == {"A": "file", "B": "config"}

    def test_options_win_over_both(self) -> None:
        made = self.entry({"region": "ap-south-1", "ttl": "2h"}, region="us-east-1")
        assert (made.region, made.ttl_s) == ("ap-south-1", 7_200)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ()),
        ({"ttl": "5h"}, ("ttl",)),
        ({"ttl": "60m"}, ("ttl",)),  # the default, and asked for nevertheless
        ({"no_shutdown": True}, ("ttl",)),
        ({"docker": True, "disk": "9"}, ("disk", "docker")),
        ({"region": "us-east-1", "run": "make"}, ()),  # they make another machine
    ],
)
def test_the_names_of_what_was_written_are_told(options: dict[str, Any], names: tuple[str, ...]) -> None:
    assert given_names(spec(options, ttl="9h"), options) == names
