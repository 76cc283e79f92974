"""EC2's error codes: how Puter handles each, and what each is about. The table is data.

Its codes are those of https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from puter_worker.errors import About, Handling


class Refusal(NamedTuple):
    """What a code means.

    Attributes:
        handling: what to do.
        about: what the refusal is about, and so what waits after it.
    """

    handling: Handling
    about: About


_HERE = About.TYPE | About.MARKET | About.PLACE

_TABLE: tuple[tuple[Handling, About, tuple[str, ...]], ...] = (
    (Handling.AGAIN, About.CALL, ("InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable")),
    (Handling.THROTTLED, About.ACCOUNT, (
        "RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled",
        "RequestThrottledException", "TooManyRequestsException", "SlowDown", "EC2ThrottledException",
    )),
    # No capacity: another place may have some. `Unsupported` is of this kind only if it is about the zone.
    (Handling.OTHER_ZONE, _HERE, (
        "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity",
    )),
    (Handling.OTHER_ZONE, About.PLACE, ("InsufficientFreeAddressesInSubnet", "InsufficientAddressCapacity")),
    (Handling.OTHER_ZONE, About.PLACE | About.DISK, ("InsufficientVolumeCapacity",)),
    # Quotas. Since 2019 vCPUs are counted for a family and market; an instance limit is one of a type.
    (Handling.QUOTA, About.FAMILY | About.MARKET, ("VcpuLimitExceeded", "MaxSpotInstanceCountExceeded")),
    (Handling.QUOTA, About.TYPE | About.MARKET, ("InstanceLimitExceeded",)),
    (Handling.QUOTA, About.DISK, ("VolumeLimitExceeded", "MaxIOPSLimitExceeded")),
    (Handling.QUOTA, About.ACCOUNT, ("PendingVerification", "NetworkInterfaceLimitExceeded")),
    (Handling.SPLIT, About.CALL, ("ResourceCountExceeded", "FilterLimitExceeded")),
    (Handling.JUST_MADE, About.REQUEST, ("InvalidInstanceID.NotFound",)),
    (Handling.JUST_MADE, About.GROUP, ("InvalidGroup.NotFound",)),
    (Handling.ALREADY_THERE, About.GROUP, ("InvalidGroup.Duplicate", "InvalidPermission.Duplicate")),
    (Handling.ALREADY_THERE, About.KEY_PAIR, ("InvalidKeyPair.Duplicate",)),
    # Those after the first four mean that keys were revoked or mistyped, that a clock is wrong, or that the region is
    # not enabled for the account: the request is not at fault, and can wait until the worker's operator has fixed it.
    # A few `AuthFailure` are about the request all the same.
    (Handling.CREDENTIALS, About.ACCOUNT, (
        "ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired",
        "AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch",
        "InvalidAccessKeyId", "IncompleteSignature", "MissingAuthenticationToken", "RegionDisabledException",
    )),
    (Handling.IDEMPOTENT_MISMATCH, About.CALL, ("IdempotentParameterMismatch",)),
    (Handling.IDEMPOTENT_TERMINATED, About.CALL, ("IdempotentInstanceTerminated",)),
    # These would fail without a row too; they are listed for what they are about.
    (Handling.FAIL, About.REQUEST, (
        "UnauthorizedOperation", "TagPolicyViolation", "InvalidParameterValue",
        "InvalidParameterCombination", "InvalidParameter", "VPCIdNotSpecified", "Unsupported",
        "InvalidBlockDeviceMapping",
    )),
    (Handling.FAIL, About.IMAGE, (
        "InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable",
    )),
    (Handling.FAIL, About.KEY_PAIR, ("InvalidKeyPair.NotFound",)),
    (Handling.FAIL, About.ACCOUNT, ("OptInRequired", "Blocked")),
)  # fmt: skip

REFUSALS: Mapping[str, Refusal] = MappingProxyType(
    {code: Refusal(handling, about) for handling, about, codes in _TABLE for code in codes}
)
"""EC2's error code → what it means; `meaning_of` decides about codes without a row."""

# Of a type that a zone does not have, EC2 says: "Your requested instance type (…) is not supported in your requested
# Availability Zone (…)". Any other `Unsupported` says that this request asks for things that do not go together.
_IN_ZONE = "in your requested availability zone"
# EC2 also says AuthFailure of what a request names: "Not authorized for images: [ami-…]". Waiting does not help there.
_OF_THE_REQUEST = re.compile("not authorized|unauthorized|permission", re.IGNORECASE)


def meaning_of(code: str, message: str = "", http_status: int | None = None) -> Refusal:
    """What to do about one of EC2's error codes, and what it is about.

    Args:
        code: from an answer, or from an instance's StateReason (`Server.InsufficientInstanceCapacity`).
        message: EC2's sentence; of some codes it decides.
        http_status: the answer's status; it decides about codes that have no row.
    """
    code = code.removeprefix("Client.").removeprefix("Server.")
    if code == "Unsupported" and _IN_ZONE in message.lower():
        return Refusal(Handling.OTHER_ZONE, _HERE)
    if code == "AuthFailure" and _OF_THE_REQUEST.search(message):
        return Refusal(Handling.FAIL, About.REQUEST)
    row = REFUSALS.get(code)
    if row:
        return row
    if code.startswith("Throttling"):
        return Refusal(Handling.THROTTLED, About.ACCOUNT)
    if http_status is not None and http_status >= 500:
        return Refusal(Handling.DOUBTFUL, About.CALL)
    return Refusal(Handling.FAIL, About.REQUEST)


def subjects(*handlings: Handling) -> frozenset[About]:
    """What the refusals that are handled in these ways are about."""
    return frozenset(refusal.about for refusal in REFUSALS.values() if refusal.handling in handlings)
