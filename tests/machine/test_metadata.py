"""The metadata service answers as EC2's does; asked from inside of its network, with nothing booted."""

from __future__ import annotations

import asyncio
import base64
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tests.ec2sim.config import SimConfig
from tests.ec2sim.direct import Direct
from tests.ec2sim.reports import Seen, see
from tests.machine import metadata
from tests.machine.metadata import MetadataService, SpotNotice
from tests.machine.netns import NetworkNamespace

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"


class Inside:
    """A network with the service of an instance.

    Attributes:
        seen: the instance; a test may put another in its place.
        service: that answers.
    """

    def __init__(self, root: Path, network: NetworkNamespace, seen: Seen) -> None:
        self._curl = ("nsenter", f"--net={network.path}", "chroot", str(root), "curl", "-s", "-w", "\n%{http_code}")
        self.seen = seen
        self.service = MetadataService(self._describe)

    async def _describe(self) -> Seen:
        return self.seen

    async def curl(self, path: str, *options: str, **headers: str) -> tuple[int, str]:
        """Status and body."""
        given = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
        url = f"http://{metadata.ADDRESS}{path}"
        process = await asyncio.create_subprocess_exec(*self._curl, *options, *given, url, stdout=PIPE)
        body, _, status = (await process.communicate())[0].decode().rpartition("\n")
        return int(status), body

    async def token(self) -> str:
        """A token for a minute."""
        status, token = await self.curl("/latest/api/token", "-X", "PUT", **{TTL: "60"})
        assert status == 200
        return token

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body, asked with a token."""
        return await self.curl(path, **{TOKEN: await self.token()})


def launched(**params: Any) -> Seen:
    ec2 = Direct(SimConfig())
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "puter:member", "Value": "17"}, {"Key": "b", "Value": "é"}]}]
    usual = {
        "MetadataOptions": {"HttpTokens": "required"},
        "TagSpecifications": tags,
        "UserData": base64.b64encode(b"hello").decode(),
    }
    [one] = ec2.launch(**usual | params)
    ec2.listed()
    return see(ec2.inside(one["InstanceId"]), user_data=True)


@pytest.fixture
async def inside(root: Path) -> AsyncIterator[Inside]:
    network = NetworkNamespace(root, metadata.ADDRESS, metadata.PORT)
    inside = Inside(root, network, launched())
    server = web.AppRunner(inside.service.app(), access_log=None, shutdown_timeout=0.1)
    await server.setup()
    await web.SockSite(server, network.listener).start()
    yield inside
    await server.cleanup()
    network.close()


async def test_it_tells_what_the_instance_is(inside: Inside) -> None:
    seen = inside.seen
    for name, value in {
        "instance-id": seen.id,
        "ami-launch-index": "0",
        "ami-id": seen.image_id,
        "instance-type": "t3.micro",
        "instance-life-cycle": "on-demand",
        "placement/availability-zone": seen.zone,
        "placement/region": "us-east-1",
        "public-ipv4": seen.public_ip,
    }.items():
        assert await inside.get(f"/latest/meta-data/{name}") == (200, value)
    assert await inside.get("/latest/user-data") == (200, "hello")
    assert "placement/\n" in (await inside.get("/latest/meta-data/"))[1]


async def test_an_instance_without_user_data_has_none(inside: Inside) -> None:
    inside.seen = launched(UserData="")

    assert (await inside.get("/latest/user-data"))[0] == 404


@pytest.mark.parametrize(("http_tokens", "status"), [("required", 401), ("optional", 200)])
async def test_without_a_token_it_answers_only_where_none_is_required(
    inside: Inside, http_tokens: str, status: int
) -> None:
    inside.seen = launched(MetadataOptions={"HttpTokens": http_tokens})

    assert (await inside.curl("/latest/meta-data/instance-id"))[0] == status


async def test_a_token_that_it_has_not_given_is_refused(inside: Inside) -> None:
    assert (await inside.curl("/latest/meta-data/instance-id", **{TOKEN: "made-up"}))[0] == 401


@pytest.mark.parametrize("ttl", ["0", "21601", "-1", "soon", ""])
async def test_a_token_needs_a_time_to_live(inside: Inside, ttl: str) -> None:
    assert (await inside.curl("/latest/api/token", "-X", "PUT", **{TTL: ttl}))[0] == 400


async def test_a_token_is_not_given_to_what_was_forwarded(inside: Inside) -> None:
    headers = {TTL: "60", "X-Forwarded-For": "192.0.2.1"}

    assert (await inside.curl("/latest/api/token", "-X", "PUT", **headers))[0] == 403


@pytest.mark.parametrize("path", ["tags/instance", "tags/instance/puter:member", "tags/"])
async def test_there_are_no_tags_unless_the_launch_enabled_them(inside: Inside, path: str) -> None:
    assert (await inside.get(f"/latest/meta-data/{path}"))[0] == 404


async def test_tags_are_those_that_the_instance_has_now(inside: Inside) -> None:
    enabled = {"HttpTokens": "required", "InstanceMetadataTags": "enabled"}
    inside.seen = launched(MetadataOptions=enabled)
    assert await inside.get("/latest/meta-data/tags/instance") == (200, "puter:member\nb")
    assert await inside.get("/latest/meta-data/tags/instance/b") == (200, "é")
    assert (await inside.get("/latest/meta-data/tags/instance/puter:order"))[0] == 404

    inside.seen = msgspec.structs.replace(inside.seen, shown_tags={**inside.seen.shown_tags, "puter:order": "stop"})

    assert await inside.get("/latest/meta-data/tags/instance/puter:order") == (200, "stop")


async def test_a_spot_notice_is_there_from_when_it_is_given(inside: Inside) -> None:
    assert (await inside.get("/latest/meta-data/spot/instance-action"))[0] == 404

    inside.service.notice = SpotNotice(action="terminate", at=1_790_000_000)

    wanted = '{"action":"terminate","time":"2026-09-21T14:13:20Z"}'
    assert await inside.get("/latest/meta-data/spot/instance-action") == (200, wanted)


async def test_what_it_does_not_know_is_404(inside: Inside) -> None:
    for path in ("/latest/meta-data/iam/", "/latest/meta-data/instance-id/x", "/1999-01-01/meta-data/", "/admin"):
        assert (await inside.get(path))[0] == 404
