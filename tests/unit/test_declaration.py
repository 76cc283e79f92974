"""A spec field is declared once: what follows from a declaration, shown with fields that no product file knows."""

from __future__ import annotations

from typing import Annotated

import click
import msgspec
import pytest

from puter_client.cli.options import spec_options
from puter_client.contract import readers
from puter_client.contract.declaration import Field, Form, NoneFlag, Option, compared, declared, inputs, shared
from puter_client.contract.fields import InvalidSpec, build, recheck_spec
from puter_client.contract.spec import Spec, differing_fields, spec_digest

_HOURS = readers.Seconds("1h to 2h", 3_600, 7_200)


class Wider(Spec, frozen=True, kw_only=True):
    """A spec with more fields, declared as those of Spec are."""

    placement_group: Annotated[
        str | None,
        Field(read=readers.pattern(r"[a-z]+", "write a name"), help="Near each other.", option=Option(), compared=True),
    ] = None
    label: Annotated[str | None, Field(read=readers.text, help="Shown.", per_member=True)] = None
    zone: Annotated[
        str | None,
        Field(
            read=readers.several(readers.pattern(r"z\d", "write a zone")),
            help="Zones.",
            option=Option(form=Form.WORDS, short="z"),
            further="zones",
            compared=True,
        ),
    ] = None
    zones: tuple[str, ...] = ()
    idle_s: Annotated[
        int | None,
        Field(
            name="idle",
            read=_HOURS.read,
            read_again=_HOURS.read_again,
            help="Ends when idle.",
            none=NoneFlag(name="never_idle", help="Does not.", meaning="for a machine that may idle"),
            needs="label",
        ),
    ] = 3_600


def options() -> dict[str | None, click.Option]:
    command = spec_options(Wider)(click.command()(lambda **_: None))
    return {param.name: param for param in command.params if isinstance(param, click.Option)}


def refused(spec: Spec) -> list[str]:
    with pytest.raises(InvalidSpec) as caught:
        recheck_spec(spec)
    return list(caught.value.problems)


def test_a_field_that_is_declared_compared_makes_another_machine() -> None:
    one, other = Wider(), Wider(placement_group="near", zone="z1", zones=("z2",))

    assert spec_digest(one) != spec_digest(other)
    assert differing_fields(one, other) == ("placement_group", "zone", "zones")


def test_a_field_that_is_not_declared_compared_makes_the_same_machine() -> None:
    assert spec_digest(Wider()) == spec_digest(Wider(label="x", idle_s=7_200))


def test_all_but_a_members_own_is_shared() -> None:
    assert set(shared(Wider)) - set(shared(Spec)) == {"placement_group", "zone", "zones", "idle_s"}


def test_what_spec_declares_a_members_own_is_known() -> None:
    own = set(Spec.__struct_fields__) - set(shared(Spec))

    assert own == {
        "profile", "region", "run", "env", "give_up_after_s", "private_key_path", "on_exit", "retries",
        "retry_on",
    }  # fmt: skip


def test_a_field_gets_its_option_with_its_help() -> None:
    option = options()["placement_group"]

    assert (option.opts, option.help, option.multiple) == (["--placement-group"], "Near each other.", False)


def test_an_option_has_the_form_and_the_short_name_that_are_declared() -> None:
    assert (options()["zone"].opts, options()["zone"].multiple) == (["-z", "--zone"], True)


def test_a_field_without_an_option_has_none() -> None:
    assert "label" not in options()


def test_a_field_is_read_as_it_is_declared() -> None:
    made = build(Wider, {"placement_group": "near", "zone": "z1 z2", "label": "x", "idle": "2h"})

    assert made == Wider(placement_group="near", zone="z1", zones=("z2",), label="x", idle_s=7_200)


def test_the_flag_of_none_is_written_beside_its_field() -> None:
    assert build(Wider, {"never_idle": "true"}).idle_s is None
    assert inputs(Wider)["idle"].sets_aside == ("never_idle",)
    assert inputs(Wider)["never_idle"].sets_aside == ("idle",)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"placement_group": "7"}, "placement_group: '7': write a name"),
        ({"idle": "3h", "label": "x"}, "idle: '3h': write 1h to 2h, or never_idle for a machine that may idle"),
        ({"idle": "1h"}, "idle: has no effect alone: write label as well"),
        (
            {"idle": "1h", "never_idle": True, "label": "x"},
            "never_idle: and idle exclude each other: keep one",
        ),
    ],
)
def test_a_field_that_cannot_be_used_is_refused(written: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        build(Wider, written)

    assert caught.value.problems == (problem,)


@pytest.mark.parametrize(
    ("forged", "problem"),
    [
        (Wider(placement_group="7"), "placement_group: '7': write a name"),
        (Wider(zones=("z1",)), "zone: is empty: write a text"),
        (Wider(zone="z1", zones=("z1",)), "zone: is not canonical, expected 'z1'"),
        (Wider(idle_s=1), "idle: '1s': write 1h to 2h, or never_idle for a machine that may idle"),
    ],
)
def test_a_field_of_a_spec_that_somebody_else_built_is_checked_again(forged: Wider, problem: str) -> None:
    assert refused(forged) == [problem]


def test_what_was_built_passes_the_second_check() -> None:
    recheck_spec(build(Wider, {"placement_group": "near", "zone": "z1 z2", "never_idle": True}))


def test_an_attribute_without_a_declaration_is_a_mistake() -> None:
    class Forgetful(Spec, frozen=True, kw_only=True):
        ebs_optimized: bool = False

    with pytest.raises(TypeError, match="Forgetful: no Field is declared for ebs_optimized"):
        declared(Forgetful)


def test_every_attribute_of_a_spec_is_declared() -> None:
    assert {name for item in declared(Spec) for name in item.attributes} == set(Spec.__struct_fields__)


def test_a_wider_spec_travels_as_spec_does() -> None:
    sent = msgspec.json.encode(Wider(placement_group="near"))

    assert sent == b'{"placement_group":"near"}'
    assert compared(Wider)[: len(compared(Spec))] == compared(Spec)
    assert msgspec.json.decode(sent, type=Wider) == Wider(placement_group="near")
