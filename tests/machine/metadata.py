"""The instance metadata service of one machine, as far as cloud-init and Puter look at it.

Tokens, paths and status codes: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html,
…/instancedata-data-categories.html, …/work-with-tags-in-IMDS.html and …/spot-instance-termination-notices.html.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from tests.ec2sim.reports import Seen

ADDRESS, PORT = "169.254.169.254", 80
MAX_TOKEN_TTL_S = 21_600
_TTL = "X-aws-ec2-metadata-token-ttl-seconds"
_TOKEN = "X-aws-ec2-metadata-token"
_VERSION = re.compile(r"latest|1\.0|20\d\d-\d\d-\d\d")
# A leaf is text; a folder is a table of what is in it.
Leaf = str | bytes
Tree = Mapping[str, "Leaf | Tree"]


class SpotNotice(msgspec.Struct, frozen=True):
    """What a Spot instance is told about two minutes before it is interrupted.

    Attributes:
        action: terminate, stop or hibernate.
        at: when, in seconds since 1970.
    """

    action: str
    at: float

    @property
    def time(self) -> str:
        """`at` as the metadata service writes it."""
        return datetime.fromtimestamp(self.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class MetadataService:
    """Answers one machine.

    Attributes:
        notice: of an interruption; None until there is one.
    """

    def __init__(self, describe: Callable[[], Awaitable[Seen]]) -> None:
        """`describe` tells the instance as it is at that moment, with its user data."""
        self._describe = describe
        self._tokens: dict[str, float] = {}
        self.notice: SpotNotice | None = None

    def app(self) -> web.Application:
        """The server."""
        app = web.Application()
        app.router.add_put("/{path:.*}", self._put)
        app.router.add_get("/{path:.*}", self._get)
        return app

    async def _put(self, request: web.Request) -> web.Response:
        if request.match_info["path"].strip("/") != "latest/api/token":
            return web.Response(status=404)
        if "X-Forwarded-For" in request.headers:
            return web.Response(status=403)
        ttl = request.headers.get(_TTL, "")
        if not re.fullmatch(r"[0-9]{1,5}", ttl) or not 1 <= int(ttl) <= MAX_TOKEN_TTL_S:
            return web.Response(status=400)
        token = secrets.token_urlsafe(40)
        self._tokens[token] = time.monotonic() + int(ttl)
        return web.Response(text=token, headers={_TTL: ttl})

    async def _get(self, request: web.Request) -> web.Response:
        seen = await self._describe()
        token = request.headers.get(_TOKEN)
        if token is None and seen.http_tokens == "required":
            return web.Response(status=401)
        if token is not None and time.monotonic() >= self._tokens.get(token, 0.0):
            return web.Response(status=401)
        found = _find(_tree(seen, self.notice), request.match_info["path"])
        if found is None:
            return web.Response(status=404)
        body = found if isinstance(found, bytes) else found.encode()
        return web.Response(body=body, content_type="text/plain")


def _find(tree: Tree, path: str) -> Leaf | None:
    names = [name for name in path.split("/") if name]
    if names and not _VERSION.fullmatch(names.pop(0)):
        return None
    here: Leaf | Tree = tree
    for name in names:
        if isinstance(here, str | bytes) or name not in here:
            return None
        here = here[name]
    if isinstance(here, str | bytes):
        return here
    return "\n".join(name if isinstance(each, str | bytes) else f"{name}/" for name, each in here.items())


def _tree(seen: Seen, notice: SpotNotice | None) -> Tree:
    """All that can be read; what is not there is 404."""
    of_instance: dict[str, Leaf | Tree] = {
        "ami-id": seen.image_id,
        "ami-launch-index": str(seen.launch_index),
        "instance-action": "none",
        "instance-id": seen.id,
        "instance-life-cycle": "spot" if seen.spot else "on-demand",
        "instance-type": seen.instance_type,
        "local-hostname": f"ip-{seen.private_ip.replace('.', '-')}.ec2.internal",
        "local-ipv4": seen.private_ip,
        "placement": {"availability-zone": seen.zone, "region": seen.region},
        "reservation-id": seen.reservation_id,
    }
    if seen.public_ip:
        of_instance |= {"public-hostname": seen.public_dns, "public-ipv4": seen.public_ip}
    if seen.metadata_tags:
        of_instance["tags"] = {"instance": seen.shown_tags}
    if notice:
        action = msgspec.json.encode({"action": notice.action, "time": notice.time})
        of_instance["spot"] = {"instance-action": action}
    tree: dict[str, Leaf | Tree] = {"meta-data": of_instance}
    if seen.user_data:
        tree["user-data"] = seen.user_data
    return tree
