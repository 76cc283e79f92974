"""Which member of its launch a machine is, as EC2 knows it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from puter_worker.ec2.tags import MEMBER
from tests.ec2sim.reports import Seen


def places_of(instances: Sequence[Seen]) -> dict[str, int]:
    """The place of each machine in its manifest, by its id: that of a Spot machine is that of its id in its launch."""
    launches: dict[str, list[str]] = defaultdict(list)
    for seen in instances:
        launches[seen.reservation_id].append(seen.id)
    by_id = {one: place for ids in launches.values() for place, one in enumerate(sorted(ids))}
    return {seen.id: by_id[seen.id] if MEMBER in seen.tags else seen.launch_index for seen in instances}
