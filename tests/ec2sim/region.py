"""All that one account has in one region."""

from __future__ import annotations

from tests.ec2sim.buckets import Throttle
from tests.ec2sim.dials import Dials
from tests.ec2sim.groups import Groups
from tests.ec2sim.images import images_of
from tests.ec2sim.keys import KeyRing
from tests.ec2sim.launch import Tokens
from tests.ec2sim.network import Network
from tests.ec2sim.roster import Roster


class Region:
    """An account's part of a region.

    Attributes:
        dials: behaviour, time and dice.
        account: account id.
        name: of the region.
        launches: counts instances.
        throttle: token buckets.
        network: zones, VPCs, subnets.
        images: AMIs by id.
        keys: key pairs.
        groups: security groups.
        roster: instances.
        tokens: ClientTokens.
    """

    def __init__(self, dials: Dials, account: str, name: str) -> None:
        self.dials = dials
        self.account = account
        self.name = name
        self.launches = 0
        self.throttle = Throttle(dials)
        self.network = Network(account, name, dials.config.default_vpc)
        self.images = images_of(name)
        self.keys = KeyRing(dials)
        self.groups = Groups(dials, self.network, account)
        self.roster = Roster(dials)
        self.tokens = Tokens()
