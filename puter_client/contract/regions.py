"""The AWS regions, by name: a region that does not exist would else become a target with a leader of its own.

They are those of the SDK's own data, which clients do not have (a test compares). A region that is newer than this
version needs a newer version.
"""

from __future__ import annotations

from typing import Any

from puter_client.contract.key import shown
from puter_client.contract.readers import text

REGIONS = frozenset({
    "af-south-1", "ap-east-1", "ap-east-2", "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1",
    "ap-south-2", "ap-southeast-1", "ap-southeast-2", "ap-southeast-3", "ap-southeast-4", "ap-southeast-5",
    "ap-southeast-6", "ap-southeast-7", "ca-central-1", "ca-west-1", "cn-north-1", "cn-northwest-1", "eu-central-1",
    "eu-central-2", "eu-isoe-west-1", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-2", "eu-west-3",
    "eusc-de-east-1", "il-central-1", "me-central-1", "me-south-1", "mx-central-1", "sa-east-1", "us-east-1",
    "us-east-2", "us-gov-east-1", "us-gov-west-1", "us-iso-east-1", "us-iso-west-1", "us-isob-east-1",
    "us-isob-west-1", "us-isof-east-1", "us-isof-south-1", "us-west-1", "us-west-2",
})  # fmt: skip

_LONGEST = 2 * max(map(len, REGIONS))


def region(value: Any) -> str:
    """Read the name of a region.

    Raises:
        ValueError: there is none of that name; with those that are like it.
    """
    written = text(value)
    if written in REGIONS:
        return written
    from difflib import get_close_matches  # only where it is misspelt

    # Comparing a text with all names takes a time that grows with its square.
    like = get_close_matches(written.lower(), sorted(REGIONS), n=3, cutoff=0.75) if len(written) <= _LONGEST else []
    remedy = f"did you mean {' or '.join(like)}?" if like else "write one like us-east-1"
    raise ValueError(f"{shown(written)}: is no AWS region; {remedy}")
