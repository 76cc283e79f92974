"""The simulator without HTTP: botocore writes the request and reads the answer, the world answers in between."""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import urlencode

import botocore.model
import botocore.parsers
import botocore.serialize
import botocore.session

from tests.ec2sim.clock import ManualClock
from tests.ec2sim.config import SimConfig
from tests.ec2sim.faults import Plan
from tests.ec2sim.instance import Instance
from tests.ec2sim.region import Region
from tests.ec2sim.wire import read_form
from tests.ec2sim.world import Call, World


class Refused(Exception):
    """EC2 answered an error.

    Attributes:
        code: EC2's name of it.
        status: of the HTTP answer.
    """

    def __init__(self, code: str, message: str, status: int) -> None:
        self.code = code
        self.status = status
        super().__init__(f"{code}: {message}")


@cache
def _model(service: str) -> botocore.model.ServiceModel:
    return botocore.session.get_session().get_service_model(service)


class Direct:
    """A world whose clock stands still until it is moved.

    Attributes:
        clock: its time.
        world: everything there is.
        region: that calls go to.
    """

    def __init__(self, config: SimConfig | None = None, region: str = "us-east-1") -> None:
        self.clock = ManualClock()
        self.world = World(config or SimConfig(), self.clock)
        self.region = region

    def ask(
        self, action: str, /, *, plan: Plan | None = None, region: str | None = None, **params: Any
    ) -> dict[str, Any]:
        """A call as boto3 makes it: parameters as boto3 names them, its answer as boto3 shows it.

        Raises:
            Refused: the answer is an error.
            ConnectionResetError: there is no answer, or half of one.
        """
        service = "sts" if action == "GetCallerIdentity" else "ec2"
        operation = _model(service).operation_model(action)
        serializer = botocore.serialize.create_serializer(_model(service).metadata["protocol"])
        fields = serializer.serialize_to_request(params, operation)["body"]
        form = read_form(urlencode(fields).encode())
        call = Call(action=action, form=form, access_key="AKIADIRECT", region=region or self.region, service=service)
        plan = plan or self.world.plan(call)
        answer = self.world.answer(call, plan)
        assert not self.world.bugs, self.world.bugs[-1]
        if plan.lost or plan.drop or plan.cut:
            raise ConnectionResetError(action)
        parser = botocore.parsers.create_parser(_model(service).metadata["protocol"])
        raw = {"body": answer.body, "headers": {}, "status_code": answer.status}
        read: dict[str, Any] = parser.parse(raw, operation.output_shape)  # type: ignore[arg-type]
        if "Error" in read:
            raise Refused(read["Error"]["Code"], read["Error"]["Message"], answer.status)
        return read

    def launch(self, count: int = 1, **params: Any) -> list[dict[str, Any]]:
        """RunInstances of at most so many small machines, the rest as given; its instances."""
        return self.run(**{"MinCount": 1, "MaxCount": count, **params})["Instances"]  # type: ignore[no-any-return]

    def run(self, **params: Any) -> dict[str, Any]:
        """RunInstances with an image and a type that go together unless given."""
        given = {"ImageId": self.image(), "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, **params}
        return self.ask("RunInstances", **given)

    def image(self, architecture: str = "x86_64") -> str:
        """The id of an Amazon Linux 2023 that boots."""
        filters = [
            {"Name": "name", "Values": ["al2023-ami-2023.8.*-kernel-6.1-*"]},
            {"Name": "architecture", "Values": [architecture]},
        ]
        return str(self.ask("DescribeImages", Owners=["amazon"], Filters=filters)["Images"][0]["ImageId"])

    def listed(self, **params: Any) -> list[dict[str, Any]]:
        """DescribeInstances: the instances of all its reservations."""
        reservations = self.ask("DescribeInstances", **params)["Reservations"]
        return [one for reservation in reservations for one in reservation["Instances"]]

    def here(self) -> Region:
        """The internal state of the region."""
        (region,) = (r for (_, name), r in self.world.regions.items() if name == self.region)
        return region

    def inside(self, instance_id: str) -> Instance:
        """The internal state of an instance."""
        return self.world.find(instance_id)[1]
