"""The engine's data is deleted: what lives in another region is found, because this host remembers that region."""

from __future__ import annotations

import shutil

from tests.acceptance.cli_world import CliWorld


def living(world: CliWorld, region: str) -> list[str]:
    """Ids of the instances that live in a region."""
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    found = world.ec2(region).describe_instances(Filters=states)
    return [one["InstanceId"] for reservation in found["Reservations"] for one in reservation["Instances"]]


def test_a_name_has_one_machine_though_its_data_was_deleted_and_another_region_is_named(fresh: CliWorld) -> None:
    first = fresh.up("twin", "--region", "us-east-1")
    fresh.puter("local", "stop", "--force")
    shutil.rmtree(fresh.paths.engine / "data")

    again = fresh.puter("up", "twin", "--region", "us-west-2", PUTER_QUARANTINE_S="0")

    assert (again.code, "region" in again.err) == (1, True), again.err
    assert living(fresh, "us-east-1") == [first["instance_id"]]
    assert living(fresh, "us-west-2") == []
