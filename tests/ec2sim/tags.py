"""What EC2 takes as tags.

Rules: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.wire import Params

MAX_TAGS = 50
MAX_KEY = 127
MAX_VALUE = 256
# With tags in the instance's metadata their keys become parts of a path.
_METADATA_KEY = re.compile(r"[0-9A-Za-z\-_+=,.@:]{1,255}")
_METADATA_RESERVED = frozenset({".", "..", "_index"})


def read_tags(params: Params) -> dict[str, str]:
    """The tags of `Tag.N`; raises for what no resource takes."""
    tags: dict[str, str] = {}
    for section in params.sections("Tag"):
        key, value = section.text("Key") or "", section.text("Value") or ""
        if not key:
            raise Ec2Error("InvalidParameterValue", "Tag key cannot be empty")
        if key.lower().startswith("aws:"):
            message = "Tag keys starting with 'aws:' are reserved for internal use"
            raise Ec2Error("InvalidParameterValue", message)
        if len(key) > MAX_KEY:
            raise Ec2Error("InvalidParameterValue", f"Tag key exceeds the maximum length of {MAX_KEY} characters")
        if len(value) > MAX_VALUE:
            message = f"Tag value exceeds the maximum length of {MAX_VALUE} characters"
            raise Ec2Error("InvalidParameterValue", message)
        if key in tags:
            raise Ec2Error("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
        tags[key] = value
    return tags


def read_tag_specifications(params: Params, taggable: frozenset[str]) -> dict[str, dict[str, str]]:
    """The tags at birth by type of resource (`TagSpecification.N`)."""
    found: dict[str, dict[str, str]] = {}
    for section in params.sections("TagSpecification"):
        kind = section.need("ResourceType")
        if kind not in taggable:
            raise Ec2Error(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
        if kind in found:
            message = f"The same resource type may not be specified more than once in tag specifications: {kind}"
            raise Ec2Error("InvalidParameterValue", message)
        found[kind] = read_tags(section)
        check_count(found[kind])
    return found


def check_count(tags: Mapping[str, str]) -> None:
    """Raise TagLimitExceeded for more tags than a resource may have."""
    if len(tags) > MAX_TAGS:
        raise Ec2Error("TagLimitExceeded", f"More than {MAX_TAGS} tags specified")


def check_metadata_keys(tags: Mapping[str, str]) -> None:
    """Raises for keys that an instance with tags in its metadata does not take."""
    for key in tags:
        if not _METADATA_KEY.fullmatch(key) or key in _METADATA_RESERVED:
            message = (
                f"'{key}' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\-_+=,.@:]{{1,255}}), "
                "and must not be a reserved name ('.', '..', '_index')"
            )
            raise Ec2Error("InvalidParameterValue", message)
