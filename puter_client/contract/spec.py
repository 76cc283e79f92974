"""What is requested: the description of one machine and its workload.

Each field is declared here and nowhere else: see contract.declaration for what is derived from a declaration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from puter_client.contract import readers
from puter_client.contract.declaration import Field, Form, NoneFlag, Option, compared, fixed, option_name
from puter_client.contract.os_image import SSH_USER, Os
from puter_client.contract.regions import region as read_region

DEFAULT_INSTANCE_TYPE = "t3.micro"
DEFAULT_TTL_S = 3_600
DEFAULT_GIVE_UP_AFTER_S = 900
DEFAULT_NAME = "puter-v1"
"""Of the key pair and the security group; on a shared host `-<namespace>` follows."""

PREFER: Literal["prefer"] = "prefer"
"""The value of `spot` with which On-Demand instances are taken while Spot has no capacity."""

_TTL = readers.Seconds("1m to 365d", 60, 365 * 86_400)
_GIVE_UP_AFTER = readers.Seconds("1m to 7d", 60, 7 * 86_400)
_ID = "write the id as EC2 shows it, like "


class OnExit(StrEnum):
    """What becomes of a machine when its workload has ended."""

    SHUTDOWN = "shutdown"
    KEEP = "keep"


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One machine as requested; a field that is None is as the worker finds it, unless its help says otherwise.

    Compared are the fields that make it another machine; the others say how long it lives, who may reach it and how it
    is labelled, which may differ for the same machine.
    """

    profile: Annotated[
        str | None,
        Field(
            read=readers.pattern(r"[^\s:/\\][^\x00-\x1f/\\]{0,127}", "write the name of an AWS profile"),
            help="AWS profile on the worker's host.  [its default credentials]",
            option=Option(metavar="NAME"),
            compared=True,
            per_member=True,  # the launch queue is of one target already
        ),
    ] = None
    region: Annotated[
        str | None,
        Field(
            read=read_region,
            help="Like us-east-1.  [AWS_REGION, the profile's, else us-east-1]",
            option=Option(metavar="NAME"),
            compared=True,
            per_member=True,  # the launch queue is of one target already
        ),
    ] = None
    instance_type: Annotated[
        str,
        Field(
            read=readers.several(
                readers.pattern(r"[a-z][a-z0-9-]{0,30}\.[a-z0-9-]{1,30}", "write a type like t3.micro")
            ),
            help="Like c7i.large; more are tried in turn.  [t3.micro]",
            option=Option(metavar="TYPE", form=Form.WORDS),
            compared=True,
            further="instance_types",
        ),
    ] = DEFAULT_INSTANCE_TYPE
    instance_types: tuple[str, ...] = ()
    os: Annotated[
        Os,
        Field(
            read=readers.one_of(Os),
            help=f"Its publisher's newest image: {', '.join(Os)}.  [al2023]",
            option=Option(metavar="NAME", choices=tuple(Os)),
            compared=True,
            sets_aside=("ami", "ssh_user"),
        ),
    ] = Os.AL2023
    ami: Annotated[
        str | None,
        Field(
            read=readers.pattern(r"ami-[0-9a-f]{8,17}", _ID + "ami-0123456789abcdef0"),
            help="This image, whatever --os says.",
            option=Option(metavar="ID"),
            compared=True,
        ),
    ] = None
    ssh_user: Annotated[
        str | None,
        Field(
            read=readers.pattern(SSH_USER, "write the name of a user on the image, like ubuntu"),
            help="The image's user for ssh and the workload.  [as its publisher has it]",
            option=Option(metavar="NAME"),
        ),
    ] = None
    subnet: Annotated[
        str | None,
        Field(
            read=readers.several(readers.pattern(r"subnet-[0-9a-f]{8,17}", _ID + "subnet-0123456789abcdef0")),
            help="Like subnet-0123…; more are tried in turn.  [default VPC]",
            option=Option(metavar="ID", form=Form.WORDS),
            compared=True,
            further="subnets",
        ),
    ] = None
    subnets: tuple[str, ...] = ()
    spot: Annotated[
        bool | Literal["prefer"],
        Field(
            read=readers.flag_or(PREFER),
            help="A Spot instance.",
            option=Option(
                form=Form.FLAG,
                flags={
                    "no-spot": ("false", "An On-Demand instance, the default."),
                    "prefer-spot": (PREFER, "A Spot instance; On-Demand while Spot has been refused for 2 minutes."),
                },
            ),
            compared=True,
        ),
    ] = False
    alone: Annotated[
        bool,
        Field(
            read=readers.flag,
            help="Launched by a call of its own: machines of one call can read each other's run and env.",
            option=Option(form=Form.FLAG),
        ),
    ] = False
    disk: Annotated[
        int | None,
        Field(
            read=readers.whole(" of GiB", 1, 65_536),
            help="Root disk in GiB.  [the image's size]",
            option=Option(metavar="GIB"),
        ),
    ] = None
    instance_profile: Annotated[
        str | None,
        Field(
            read=readers.instance_profile,
            help="IAM instance profile of the machine.",
            option=Option(metavar="NAME"),
        ),
    ] = None
    run: Annotated[
        str | None,
        Field(
            read=readers.command,
            help="The workload: a shell command, run once Docker is up (--no-docker: at once).",
            option=Option(metavar="CMD"),
            compared=True,
            per_member=True,
        ),
    ] = None
    on_exit: Annotated[
        OnExit | None,
        Field(
            read=readers.one_of(OnExit),
            help="The machine when its workload has ended: shutdown, 10 s later, or keep until its deadline.  "
            "[shutdown; with --no-shutdown keep]",
            option=Option(metavar="shutdown|keep"),
            per_member=True,
        ),
    ] = None
    retries: Annotated[
        int,
        Field(
            read=readers.whole("", 0, 100),
            help="How often a workload is run again that was interrupted or lost.  [0]",
            option=Option(metavar="N"),
            per_member=True,
        ),
    ] = 0
    retry_on: Annotated[
        tuple[str, ...],
        Field(
            read=readers.retry_on,
            help="What else is run again: failed, timed_out, exit codes.",
            option=Option(metavar="RESULT|CODE", form=Form.WORDS),
            per_member=True,
            needs="retries",
        ),
    ] = ()
    docker: Annotated[
        bool,
        Field(
            read=readers.flag,
            help="Docker is installed before the workload begins.  [--docker]",
            option=Option(form=Form.FLAG),
        ),
    ] = True
    env: Annotated[
        dict[str, str],
        Field(
            read=readers.env,
            help="A variable of the workload; NAME alone takes it from here.",
            option=Option(metavar="K=V|NAME", form=Form.VARIABLES, short="e"),
            compared=True,
            per_member=True,
            needs="run",
            secret=True,
        ),
    ] = {}
    user_data: Annotated[
        str | None,
        Field(
            read=readers.user_data,
            help="Boot script or cloud-config, run after Puter's part.",
            option=Option(metavar="FILE", form=Form.FILE),
            compared=True,
            secret=True,
        ),
    ] = None
    give_up_after_s: Annotated[
        int,
        Field(
            name="give_up_after",
            read=_GIVE_UP_AFTER.read,
            read_again=_GIVE_UP_AFTER.read_again,
            help="How long to wait for missing capacity.  [15m]",
            option=Option(metavar="TIME"),
            per_member=True,  # each key has a clock of its own
            while_it_exists=True,
        ),
    ] = DEFAULT_GIVE_UP_AFTER_S
    ttl_s: Annotated[
        int | None,
        Field(
            name="ttl",
            read=_TTL.read,
            read_again=_TTL.read_again,
            help="Ends itself so long after its launch: 90s, 60m, 1h30m, 2d.  [60m]",
            option=Option(metavar="TIME"),
            none=NoneFlag(name="no_shutdown", help="Stays until somebody ends it.", meaning="for a machine that stays"),
        ),
    ] = DEFAULT_TTL_S
    ssh_from: Annotated[
        tuple[str, ...],
        Field(
            read=readers.cidrs,
            help="Who may use ssh.  [auto: this machine]",
            option=Option(metavar="CIDR|auto|none", form=Form.WORDS),
            while_it_exists=True,  # further addresses are let in
        ),
    ] = ()
    key_name: Annotated[
        str | None,
        Field(
            read=readers.pattern(r"[\x20-\x7e]{1,255}", "use 1 to 255 printable ASCII characters"),
            help="EC2 key pair.  [puter-v1; on a shared host puter-v1-NAMESPACE]",
            option=Option(metavar="NAME"),
        ),
    ] = None
    public_key: Annotated[
        str | None,
        Field(
            read=readers.pattern(
                r"(ssh-(rsa|ed25519)) [A-Za-z0-9+/=]{40,4000}( [^\x00-\x1f]{0,200})?",
                "give an OpenSSH public key of type ssh-ed25519 or ssh-rsa, on one line",
            ),
            help="Your own key's public half.  [a key that Puter makes]",
            option=Option(metavar="FILE"),  # the private half, beside it, is found by this path
            client_only=True,
        ),
    ] = None
    private_key_path: Annotated[
        str | None,
        Field(
            read=readers.pattern(r"[^\x00-\x1f]{1,4096}", "write a path"),
            help="Where the client keeps the private half of the key, for its ssh commands.",
            per_member=True,
            while_it_exists=True,
            client_only=True,
        ),
    ] = None
    security_group_name: Annotated[
        str | None,
        Field(
            read=readers.pattern(
                r"(?!sg-)[A-Za-z0-9 ._:/()#,@\[\]+=&;{}!$*-]{1,255}",
                "write a group's name (not sg-…) in EC2's alphabet",
            ),
            help="Group that lets ssh in.  [as the key pair]",
            option=Option(metavar="NAME"),
        ),
    ] = None
    aws_tags: Annotated[
        dict[str, str],
        Field(
            read=readers.aws_tags,
            help="A further EC2 tag; may be repeated.",
            option=Option(metavar="K=V", form=Form.PAIRS, name="aws-tag"),
        ),
    ] = {}

    @property
    def ends_with_its_workload(self) -> bool:
        """Whether the machine ends itself soon after its workload."""
        default = OnExit.KEEP if self.ttl_s is None else OnExit.SHUTDOWN
        return self.run is not None and (self.on_exit or default) is OnExit.SHUTDOWN

    def __repr__(self) -> str:
        # env, run and user data may carry secrets, and a repr ends in logs.
        return (
            f"{type(self).__name__}(instance_type={self.instance_type!r}, os={self.os.value!r}, "
            f"digest={spec_digest(self)!r})"
        )


def spec_digest(spec: Spec) -> str:
    """16 hex digits that agree for specs of the same machine: for those with equal compared fields."""
    values = [getattr(spec, name) for name in compared(type(spec))]
    return hashlib.sha256(msgspec.json.encode(values, order="deterministic")).hexdigest()[:16]


def differing_fields(one: Spec, other: Spec) -> tuple[str, ...]:
    """Names of the compared fields in which two specs differ, in the order of their declarations."""
    return tuple(name for name in compared(type(one)) if getattr(one, name) != getattr(other, name))


TTL = "ttl"
"""The field that is applied to a machine that exists, by an order, if the user gave it."""

KEY_FIELDS = frozenset({"key_name", "public_key"})
"""The fields that decide which key opens a machine."""


def not_applied(served: Spec, asked: Spec, given: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of fields in which a request differs from the machine that serves it, and that cannot be changed there.

    `served`: the spec of the machine; `given`: names of fields that the user gave. Any other field with its default
    value was not asked for. The field `ttl` is among them: a worker that applies it takes it out.
    """
    return tuple(
        item.name
        for item in fixed(Spec)
        if (wanted := [getattr(asked, name) for name in item.attributes])
        != [getattr(served, name) for name in item.attributes]
        and (wanted[0] != item.default or item.name in given)
    )


def options_of(names: Iterable[str], asked: Spec) -> list[str]:
    """The options, as they are typed, of fields that a request asks for."""
    found = {item.name: item for item in fixed(Spec)}
    options: list[str] = []
    for name in names:
        item = found.get(name)
        if item is None or name in KEY_FIELDS:
            continue
        none = item.field.none
        is_none = none is not None and getattr(asked, item.attribute) is None
        options.append(option_name(none.name) if none and is_none else option_name(name, item.field.option))
    return options
