"""The key pairs and security groups that Puter makes for one namespace: their names and tags, and those of others.

An account is shared by all namespaces of a shared Redis, and by local engines. What is made for a namespace has its
name in the tag `puter:namespace`. Another namespace never uses it: whoever had it made could sign in to the machines
of others with their key, or let anybody reach them. What a local engine makes has no such tag.

No namespace contains a `.`, so no name that is made for one of them can be made for another.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from puter_client.contract.key import shown
from puter_client.contract.spec import DEFAULT_NAME
from puter_worker.ec2.tags import MANAGED, NAMESPACE
from puter_worker.errors import AnothersName

MOST_GROUPS = 5
"""As many groups as EC2 lets a network interface have (Amazon VPC quotas): a machine may get all of them."""
_DIGITS = (8, 16, 32, 64)


class OwnResources(msgspec.Struct, frozen=True):
    """What is made for one namespace.

    Attributes:
        namespace: of a shared Redis; None is a local engine, whose namespaces are all one person's.
    """

    namespace: str | None = None

    @property
    def default_name(self) -> str:
        """What its key pair and its group are called, unless the user names others."""
        return DEFAULT_NAME if self.namespace is None else f"{DEFAULT_NAME}-{self.namespace}"

    def key_names(self, digest: str | None) -> list[str]:
        """The names of key pairs to try in turn: where one is taken by another key, the next one is used.

        `digest`: 64 hex digits, the SHA-256 of the client's key; None: it has none.
        """
        if digest is None:
            return [self.default_name]
        separator = "-" if self.namespace is None else "."
        return [self.default_name, *(f"{self.default_name}{separator}{digest[:most]}" for most in _DIGITS)]

    @property
    def group_names(self) -> list[str]:
        """The names of groups to try in turn: where one is full, or is not its own, the next one is used."""
        return [self.default_name, *(f"{self.default_name}.{number}" for number in range(2, MOST_GROUPS + 1))]

    @property
    def tags(self) -> dict[str, str]:
        """The tags of what is made for it."""
        return {MANAGED: "true"} | ({} if self.namespace is None else {NAMESPACE: self.namespace})

    def owns(self, tags: Mapping[str, str]) -> bool:
        """Whether a resource with these tags was made for it."""
        return tags.get(MANAGED) == "true" and tags.get(NAMESPACE) == self.namespace

    def may_use(self, tags: Mapping[str, str]) -> bool:
        """Whether a resource with these tags was not made for another namespace."""
        return tags.get(MANAGED) != "true" or tags.get(NAMESPACE, self.namespace) == self.namespace

    def refuse_anothers(self, tags: Mapping[str, str], what: str, name: str, *, option: str) -> None:
        """Refuse a resource that was made for another namespace.

        Raises:
            AnothersName: it was.
        """
        if not self.may_use(tags):
            raise AnothersName(
                f"{what} {shown(name)} was made for namespace {shown(tags[NAMESPACE])}: choose another {option}"
            )

    def check_new(self, name: str, what: str, *, option: str) -> None:
        """Refuse a name that a user chose for a resource which does not exist yet, if it may be another's default.

        EC2 takes no spaces at the ends of names, and no two groups whose names differ in case alone.

        Raises:
            AnothersName: it may be.
        """
        plain = name.strip().lower()
        if self.namespace is None or not plain.startswith(DEFAULT_NAME):
            return
        if plain != self.default_name and not plain.startswith(f"{self.default_name}."):
            raise AnothersName(
                f"there is no {what} {shown(name)}, and names that begin with {DEFAULT_NAME} are Puter's own: "
                f"choose another {option}"
            )
