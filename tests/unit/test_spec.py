"""Specs: when two of them mean the same machine, and what their text must not tell."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from puter_client.contract.declaration import compared, declared, fixed
from puter_client.contract.os_image import Os
from puter_client.contract.spec import OnExit, Spec, differing_fields, not_applied, options_of, spec_digest

COMPARED_CHANGES: dict[str, Any] = {
    "profile": "work",
    "region": "eu-west-1",
    "instance_type": "c5.large",
    "instance_types": ("c5.large",),
    "os": Os.AL2,
    "ami": "ami-12345678",
    "subnet": "subnet-12345678",
    "subnets": ("subnet-12345678",),
    "spot": True,
    "user_data": "#!/bin/sh\n",
    "run": "make",
    "env": {"A": "1"},
}
FREE_CHANGES: dict[str, Any] = {
    "alone": True,
    "disk": 30,
    "docker": False,
    "on_exit": OnExit.KEEP,
    "retries": 2,
    "retry_on": ("failed",),
    "instance_profile": "p",
    "key_name": "k",
    "public_key": "ssh-ed25519 AAAA",
    "private_key_path": "/k",
    "security_group_name": "g",
    "ssh_from": ("192.0.2.1/32",),
    "ssh_user": "build",
    "aws_tags": {"a": "b"},
    "ttl_s": None,
    "give_up_after_s": 60,
}


def test_every_field_is_either_compared_or_free() -> None:
    assert set(COMPARED_CHANGES) == set(compared(Spec))
    assert set(COMPARED_CHANGES) | set(FREE_CHANGES) == set(Spec.__struct_fields__)


@pytest.mark.parametrize("field", COMPARED_CHANGES)
def test_another_compared_field_is_another_machine(field: str) -> None:
    other = msgspec.structs.replace(Spec(), **{field: COMPARED_CHANGES[field]})

    assert spec_digest(other) != spec_digest(Spec())
    assert differing_fields(other, Spec()) == (field,)


@pytest.mark.parametrize("field", FREE_CHANGES)
def test_another_free_field_is_the_same_machine(field: str) -> None:
    other = msgspec.structs.replace(Spec(), **{field: FREE_CHANGES[field]})

    assert spec_digest(other) == spec_digest(Spec())
    assert differing_fields(other, Spec()) == ()


def test_the_order_of_variables_does_not_matter() -> None:
    one, other = Spec(run="x", env={"A": "1", "B": "2"}), Spec(run="x", env={"B": "2", "A": "1"})

    assert spec_digest(one) == spec_digest(other)


def test_a_digest_is_sixteen_hex_digits() -> None:
    assert len(spec_digest(Spec())) == 16
    assert int(spec_digest(Spec()), 16) >= 0


def test_a_spec_shows_no_secret() -> None:
    spec = Spec(run="echo hunter2", env={"PASSWORD": "hunter2"}, user_data="#!/bin/sh\n# hunter2\n")

    assert "hunter2" not in repr(spec)


def test_a_spec_of_another_version_is_not_guessed_at() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"gpu": true}', type=Spec)


@pytest.mark.parametrize(
    ("served", "asked", "given", "names", "options"),
    [
        (Spec(), Spec(ttl_s=18_000, disk=500), (), ("disk", "ttl"), ["--disk", "--ttl"]),
        (Spec(), Spec(ttl_s=None), (), ("ttl",), ["--no-shutdown"]),
        (Spec(), Spec(ssh_user="build"), (), ("ssh_user",), ["--ssh-user"]),
        (Spec(ttl_s=18_000), Spec(), (), (), []),
        (Spec(ttl_s=18_000), Spec(), ("ttl",), ("ttl",), ["--ttl"]),
        (Spec(ttl_s=18_000), Spec(ttl_s=18_000), ("ttl",), (), []),
        (Spec(), Spec(aws_tags={"team": "a"}, instance_profile="p"), (), ("instance_profile", "aws_tags"),
         ["--instance-profile", "--aws-tag"]),
        (Spec(), Spec(ssh_from=("192.0.2.1/32",), give_up_after_s=60), (), (), []),
        (Spec(public_key="ssh-ed25519 A"), Spec(public_key="ssh-ed25519 B"), (), ("public_key",), []),
        (Spec(), Spec(instance_type="c7i.large"), (), (), []),
    ],
)  # fmt: skip
def test_what_a_machine_that_exists_has_otherwise_is_named_if_it_was_asked_for(
    served: Spec, asked: Spec, given: tuple[str, ...], names: tuple[str, ...], options: list[str]
) -> None:
    assert not_applied(served, asked, given) == names
    assert options_of(names, asked) == options


def test_every_field_makes_another_machine_or_is_fixed_or_can_be_changed() -> None:
    fields = declared(Spec)
    changeable = {item.name for item in fields if item.field.while_it_exists}

    assert changeable == {"ssh_from", "give_up_after", "private_key_path"}
    assert {item.name for item in fixed(Spec)} | changeable == {i.name for i in fields if not i.field.compared}
