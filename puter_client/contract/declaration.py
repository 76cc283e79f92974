"""What it takes to declare a spec field once, and what is derived from the declarations of a struct.

Each attribute of a spec struct is annotated with a `Field`. Readers, options, the fields that make another machine and
those that the members of one launch share are all derived here, so no place can forget a field.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, get_args, get_origin

import msgspec

from puter_client.contract.readers import Reader, flag


class Form(Enum):
    """How the value of an option is typed on the command line."""

    TEXT = "one text"
    FLAG = "--NAME or --no-NAME"
    SWITCH = "--NAME alone"
    WORDS = "several values, separated by spaces or commas; may be repeated"
    PAIRS = "KEY=VALUE; may be repeated"
    VARIABLES = "NAME=VALUE, or NAME alone for its value in this environment; may be repeated"
    FILE = "the path of a file; its content is the value"

    @property
    def repeated(self) -> bool:
        """Whether the option may be given several times."""
        return self in (Form.WORDS, Form.PAIRS, Form.VARIABLES)


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """The command-line option of a field.

    Attributes:
        form: how its value is typed.
        metavar: the placeholder of the value in the help.
        name: the long name without its dashes; None is the field's name with `-` for `_`.
        short: the one-letter name without its dash.
        choices: the values that a shell may complete; () if there are too many, or none that are known.
        flags: of a FLAG with more than two values: its other flags without their dashes → the text that each stands
            for, and its help; there is no --no-NAME unless it is one of them.
    """

    form: Form = Form.TEXT
    metavar: str | None = None
    name: str | None = None
    short: str | None = None
    choices: tuple[str, ...] = ()
    flags: Mapping[str, tuple[str, str]] = MappingProxyType({})


class NoneFlag(msgspec.Struct, frozen=True, kw_only=True):
    """A flag that stands for the value None of a field whose default is another value.

    Attributes:
        name: the flag as it is written.
        help: what it does.
        meaning: for what a person would write it, as messages put it: "for a machine that stays".
    """

    name: str
    help: str
    meaning: str


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of one spec field.

    Attributes:
        read: from what is written to the value that the spec holds; raises ValueError with what to write instead.
        help: what the field is for, with the default in brackets.
        option: its command-line option; None: it has none.
        name: the field as it is written, if not the attribute's name.
        compared: whether another value makes another machine; what is not compared may differ for the same machine.
        per_member: whether the members of one RunInstances call may differ in it. Every other field separates
            groups, for one call gives the same value to all its instances.
        while_it_exists: whether another value is applied to a machine that exists, or means nothing for it.
        further: the attribute that holds all values but the first, of a field with several.
        none: the flag that stands for None.
        needs: another field without which this one has no meaning.
        sets_aside: fields that answer the same question: a value of this one overrides theirs in weaker levels.
        read_again: reads the spec's value, where its form is not one that is written; None is `read`.
        client_only: whether the client fills it in, so that no file may write it.
        secret: whether its value must not be shown.
    """

    read: Reader
    help: str
    option: Option | None = None
    name: str | None = None
    compared: bool = False
    per_member: bool = False
    while_it_exists: bool = False
    further: str | None = None
    none: NoneFlag | None = None
    needs: str | None = None
    sets_aside: tuple[str, ...] = ()
    read_again: Reader | None = None
    client_only: bool = False
    secret: bool = False


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """A declaration together with the attribute that it was found on.

    Attributes:
        attribute: the attribute's name.
        name: the field as it is written.
        field: its declaration.
        default: the attribute's default.
        is_mapping: whether its value is a mapping, whose levels are merged name by name.
    """

    attribute: str
    name: str
    field: Field
    default: Any
    is_mapping: bool

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that hold its value."""
        return (self.attribute, self.field.further) if self.field.further else (self.attribute,)


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """One name that a person can write: in a file, in settings, or as an option.

    Attributes:
        name: as files have it.
        read: see Field.
        help: see Field.
        option: see Field.
        sets_aside: see Field.
        is_mapping: see Declared.
        client_only: see Field.
    """

    name: str
    read: Reader
    help: str
    option: Option | None
    sets_aside: tuple[str, ...] = ()
    is_mapping: bool = False
    client_only: bool = False

    @property
    def option_name(self) -> str:
        """The long name of its option, with dashes."""
        return option_name(self.name, self.option)


def option_name(name: str, option: Option | None = None) -> str:
    """The long name of a field's option, with dashes."""
    return "--" + ((option and option.name) or name.replace("_", "-"))


@cache
def declared(struct: type[msgspec.Struct]) -> tuple[Declared, ...]:
    """The declarations of a spec struct, in the order of its attributes.

    Raises:
        TypeError: an attribute is not declared: it has no Field, and no Field names it as its further values.
    """
    found: list[Declared] = []
    undeclared: set[str] = set()
    for info in msgspec.structs.fields(struct):
        kind, *metadata = get_args(info.type) if hasattr(info.type, "__metadata__") else (info.type,)
        field = next((item for item in metadata if isinstance(item, Field)), None)
        if field is None:
            undeclared.add(info.name)
            continue
        default = info.default if info.default is not msgspec.NODEFAULT else info.default_factory()
        name = field.name or info.name
        is_mapping = get_origin(kind) is dict
        found.append(Declared(attribute=info.name, name=name, field=field, default=default, is_mapping=is_mapping))
    if missing := undeclared - {item.field.further for item in found}:
        raise TypeError(f"{struct.__name__}: no Field is declared for {', '.join(sorted(missing))}")
    return tuple(found)


@cache
def inputs(struct: type[msgspec.Struct]) -> Mapping[str, Input]:
    """All names that can be written for a spec struct, in the order of its declarations."""
    found: dict[str, Input] = {}
    for item in declared(struct):
        field, flag_of_none = item.field, item.field.none
        found[item.name] = Input(
            name=item.name,
            read=field.read,
            help=field.help,
            option=field.option,
            sets_aside=(*field.sets_aside, flag_of_none.name) if flag_of_none else field.sets_aside,
            is_mapping=item.is_mapping,
            client_only=field.client_only,
        )
        if flag_of_none:
            found[flag_of_none.name] = Input(
                name=flag_of_none.name,
                read=flag,
                help=flag_of_none.help,
                option=Option(form=Form.SWITCH),
                sets_aside=(item.name,),
            )
    return found


@cache
def compared(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """The attributes in which the specs of one machine agree."""
    return tuple(name for item in declared(struct) if item.field.compared for name in item.attributes)


@cache
def shared(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """The attributes in which the members of one launch agree: all that are not declared to be a member's own."""
    return tuple(name for item in declared(struct) if not item.field.per_member for name in item.attributes)


@cache
def fixed(struct: type[msgspec.Struct]) -> tuple[Declared, ...]:
    """The fields that make no other machine, and that cannot be changed while the machine exists."""
    return tuple(item for item in declared(struct) if not item.field.compared and not item.field.while_it_exists)
