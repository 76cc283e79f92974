"""Errors that a stage may meet while it serves a key, and how each is handled.

```
StageError                  an error that stops a key at a stage
├── Ec2Error                EC2 refused the call
├── NotReached              EC2 was not reached; nothing was sent
├── Unanswered              the call was sent, and its outcome is unknown
├── InvalidCall             the SDK rejects the call that Puter composed: a defect
├── UnknownRegion           there is no such region
├── CredentialsError        the worker has no usable credentials
│   ├── AwsSettingsError    the worker's AWS settings cannot be used
│   ├── ProfileMissing      this worker's host has no such AWS profile
│   └── WrongAccount        the credentials now belong to another account
├── NoImage                 the region has no image of that kind
├── ImageMissing            the region has no image with that id
├── UnusableImage           the image cannot be booted
├── DiskTooSmall            the image does not fit onto a root disk of the requested size
├── UnusableInstanceType    Puter does not support the type's processor
├── SubnetMissing           the region has no subnet with that id
├── NoDefaultVpc            the account has no default VPC, and no subnet was named
├── NoPublicKey             there is no public key for the key pair
├── KeyPairMismatch         EC2 holds another key under that name
├── AnothersName            a key pair or security group is another namespace's, or would have its name
├── NoKeyMaterial           EC2 made a key pair but did not return its private key
├── KeyNotKept              the file of a key that EC2 made cannot be written
├── LaunchTooLarge          a launch does not fit into EC2's limits
│   ├── UserDataTooLarge    the user data of a launch has over 16,384 bytes
│   └── ManifestTooLarge    the members of a group do not fit into a machine's tags
├── PrepareTimedOut         EC2 did not answer in time while a launch was prepared
├── PolicyRefused           the workers' policy does not allow what was requested
├── PolicyUnusable          the policy file cannot be used
├── TooManyTargets          the namespace has something in as many accounts, regions and profiles as it may
├── NoCapacity              no capacity became available within the time that the request allows
├── SpecLost                Redis no longer holds what was requested
└── LaunchNotComposed       Puter cannot compose the launch: a defect
```
"""

from __future__ import annotations

import re
from enum import Flag, StrEnum, auto
from typing import ClassVar

from puter_client.contract.errors import PuterError
from puter_client.contract.record import ErrorInfo

_MAX_MESSAGE = 400
_URL = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^\s/@]*@)?([^\s/?#\"']+)[^\s\"']*", re.IGNORECASE)
_OPAQUE = re.compile(r"[A-Za-z0-9+/=_%-]{100,}")
_ENCODED_REASON = re.compile(r"\s*Encoded authorization failure message:.*", re.DOTALL)


class Handling(StrEnum):
    """How an error is handled."""

    AGAIN = "again"
    """Repeat the call with the same token, after a pause."""
    THROTTLED = "throttled"
    """The rate limit is reached: wait, and send calls more slowly."""
    OTHER_ZONE = "other_zone"
    """No capacity here: try another zone, or try later, with a new token."""
    QUOTA = "quota"
    """The account's quota is reached: hold the launches that count against it, say which quota it is, try later."""
    SPLIT = "split"
    """The call asks for too much at once: split it."""
    FAIL = "fail"
    """Repeating cannot help: tell the user the reason."""
    JUST_MADE = "just_made"
    """EC2 does not show yet what was just made: repeat the call."""
    ALREADY_THERE = "already_there"
    """The resource exists: read it and compare."""
    CREDENTIALS = "credentials"
    """The worker's credentials do not work: wait until its operator has signed in again."""
    IDEMPOTENT_MISMATCH = "idempotent_mismatch"
    """The token was used with other parameters: look up and adopt what it launched."""
    IDEMPOTENT_TERMINATED = "idempotent_terminated"
    """The instances that the token launched have ended."""
    DOUBTFUL = "doubtful"
    """The outcome is unknown: look up the result first, and only then repeat the call with the same token."""


class About(Flag):
    """What a refusal of EC2's is about: what else waits after it, and what does not.

    A refusal may be about several of them together: want of capacity is about one type in one market and place.
    """

    REQUEST = auto()
    """This request alone: one of its values, or a permission that it needs."""
    CALL = auto()
    """This call alone: how much it asks for at once, its token, or a moment at which EC2 failed."""
    IMAGE = auto()
    """The image."""
    KEY_PAIR = auto()
    """The key pair."""
    GROUP = auto()
    """The security group."""
    TYPE = auto()
    """The instance type."""
    FAMILY = auto()
    """The family of instance types that share a quota."""
    MARKET = auto()
    """Spot or On-Demand."""
    PLACE = auto()
    """The zone or subnet."""
    DISK = auto()
    """Disks of this size."""
    ACCOUNT = auto()
    """Everything that the account does in the region."""


class StageError(PuterError):
    """An error that stops a key at a stage. Its text may be shown to users: it is one line without secrets.

    Attributes:
        code: a stable name for programs; for an Ec2Error, EC2's own code.
        message: what was wrong and, if Puter knows it, what to do.
        handling: how it is handled.
        doubtful: whether the call may have taken effect in spite of the error.
        request_id: AWS's id of the call, if it was answered.
    """

    default_handling: ClassVar[Handling] = Handling.FAIL

    def __init__(
        self,
        message: str,
        *,
        handling: Handling | None = None,
        doubtful: bool = False,
        request_id: str | None = None,
    ) -> None:
        self.message = fit_for_users(message)
        self.handling = handling or self.default_handling
        self.doubtful = doubtful
        self.request_id = request_id
        super().__init__(f"{self.code}: {self.message}")

    @property
    def info(self) -> ErrorInfo:
        """The error as a record shows it."""
        return ErrorInfo(code=self.code, message=self.message, request_id=self.request_id)


class Ec2Error(StageError):
    """EC2 refused the call; `code` is EC2's.

    Attributes:
        about: what the refusal is about.
    """

    code: str  # type: ignore[misc]  # EC2 has many codes: each object has its own

    def __init__(
        self,
        code: str,
        message: str,
        *,
        handling: Handling = Handling.FAIL,
        about: About = About.REQUEST,
        doubtful: bool = False,
        request_id: str | None = None,
    ) -> None:
        self.code = code
        self.about = about
        super().__init__(message, handling=handling, doubtful=doubtful, request_id=request_id)


class NotReached(StageError):
    """EC2 was not reached; nothing was sent."""

    default_handling: ClassVar[Handling] = Handling.AGAIN


class Unanswered(StageError):
    """The call was sent, and its outcome is unknown."""

    default_handling: ClassVar[Handling] = Handling.DOUBTFUL

    def __init__(self, message: str) -> None:
        super().__init__(message, doubtful=True)


class InvalidCall(StageError):
    """The SDK rejects the call that Puter composed: a defect."""


class UnknownRegion(StageError):
    """There is no such region."""


class CredentialsError(StageError):
    """The worker has no usable credentials."""

    default_handling: ClassVar[Handling] = Handling.CREDENTIALS


class AwsSettingsError(CredentialsError):
    """The worker's AWS settings cannot be used: its AWS config, or variables of its environment."""


class ProfileMissing(CredentialsError):
    """This worker's host has no such AWS profile; another worker's host may have it."""


class WrongAccount(CredentialsError):
    """The credentials now belong to another account: keys of the target's account wait until an operator fixes them."""

    def __init__(self, profile: str | None, *, wanted: str, found: str) -> None:
        of = f"profile {profile!r}" if profile else "the default profile"
        super().__init__(
            f"the credentials of {of} now belong to account {found}, not {wanted}: fix them on the workers' hosts"
        )


class NoImage(StageError):
    """The region has no image of that kind."""


class ImageMissing(StageError):
    """The region has no image with that id."""


class UnusableImage(StageError):
    """The image cannot be booted."""


class DiskTooSmall(StageError):
    """The image does not fit onto a root disk of the requested size."""


class UnusableInstanceType(StageError):
    """Puter does not support the type's processor."""


class SubnetMissing(StageError):
    """The region has no subnet with that id."""


class NoDefaultVpc(StageError):
    """The account has no default VPC, and no subnet was named."""


class NoPublicKey(StageError):
    """There is no public key for the key pair."""


class KeyPairMismatch(StageError):
    """EC2 holds another key under that name."""


class AnothersName(StageError):
    """A key pair or security group is another namespace's, or would have its name."""


class NoKeyMaterial(StageError):
    """EC2 made a key pair but did not return its private key."""


class KeyNotKept(StageError):
    """The file of a key that EC2 made cannot be written."""

    default_handling: ClassVar[Handling] = Handling.AGAIN


class LaunchTooLarge(StageError):
    """A launch does not fit into EC2's limits: launch fewer machines at once."""


class UserDataTooLarge(LaunchTooLarge):
    """The user data of a launch has over 16,384 bytes before base64, even if gzipped.

    Attributes:
        size: its bytes in the smaller form, plain or gzipped.
        excess: by how many bytes it is over the limit.
    """

    def __init__(self, message: str, *, size: int, excess: int) -> None:
        self.size = size
        self.excess = excess
        super().__init__(message)


class ManifestTooLarge(LaunchTooLarge):
    """The members of a group do not fit into a machine's tags."""


class PrepareTimedOut(StageError):
    """EC2 did not answer in time while a launch was prepared."""

    default_handling: ClassVar[Handling] = Handling.AGAIN


class PolicyRefused(StageError):
    """The workers' policy does not allow what was requested."""


class PolicyUnusable(StageError):
    """The policy file cannot be used."""


class TooManyTargets(StageError):
    """The namespace has something in as many accounts, regions and profiles as it may."""


class NoCapacity(StageError):
    """No capacity became available within the time that the request allows."""


class SpecLost(StageError):
    """Redis no longer holds what was requested."""


class LaunchNotComposed(StageError):
    """Puter cannot compose the launch: a defect."""

    default_handling: ClassVar[Handling] = Handling.AGAIN


def is_final(error: StageError) -> bool:
    """Whether repeating cannot help, so that the puter fails."""
    return error.handling is Handling.FAIL or isinstance(error, ProfileMissing)


def reason_after(error: StageError) -> str:
    """The reason of a puter that waits after an error which does not fail it, with what its owner can do."""
    match error.handling:
        case Handling.CREDENTIALS:
            return f"waiting for AWS credentials ({error.code}): {error.message}"
        case Handling.QUOTA:
            return f"waiting for the account's quota ({error.code}): {error.message}"
        case Handling.OTHER_ZONE:
            return f"no capacity ({error.code}): {error.message}"
        case Handling.THROTTLED:
            return f"EC2's API rate limit is reached ({error.code}); sending calls more slowly"
        case _ if error.doubtful:
            what = error.code if isinstance(error, Ec2Error) else error.message
            return f"EC2's answer is unknown ({what}); checking whether the machine exists"
        case _ if not isinstance(error, Ec2Error):
            return f"{error.message}; trying again"
        case _:
            return f"EC2 answered {error.code}; trying again"


def fit_for_users(message: str) -> str:
    """A message of EC2 or the SDK, short and on one line, without paths of URLs, tokens and other opaque text."""
    message = _ENCODED_REASON.sub("", message)
    message = _URL.sub(r"\1\2", message)
    message = _OPAQUE.sub("…", message)
    message = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"
