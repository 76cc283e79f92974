"""The client of a command: on the shared Redis if one is set, else on the local engine, which is started."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

from puter_client.cli.terminal import live, say
from puter_client.config import ClientSettings, Config, client_settings, login_name, read_config
from puter_client.contract.errors import NoWorker, PuterError, StoreUnavailable
from puter_client.paths import Paths
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings

if TYPE_CHECKING:
    from puter_client.client import PuterClient
    from puter_client.local import Engine


class NothingYet(PuterError):
    """Nothing was ever requested here, so a command that only reads needs no engine."""

    code: ClassVar[str] = "NothingYet"

    def __init__(self) -> None:
        super().__init__("nothing here yet; start with: puter up --tag NAME")


def settings_of(namespace: str | None) -> ClientSettings:
    """The settings of this command; warns of a password in a file that others can read."""
    config, paths = here()
    return client_settings(os.environ, namespace=namespace, config=config, paths=paths)


def here() -> tuple[Config, Paths]:
    """The settings in `config.toml`, and the user's paths."""
    paths = Paths.from_environ(os.environ)
    config = read_config(paths.config_file)
    if config.open_to_others:
        say(f"warning: {paths.config_file} holds a password and other users can read it: `chmod 600` it")
    return config, paths


@asynccontextmanager
async def connected(
    settings: ClientSettings,
    *,
    looks_only: bool = False,
    waits: bool = False,
    tell: Callable[[str], None] = say,
    timings: ClientTimings = DEFAULT_TIMINGS,
) -> AsyncIterator[PuterClient]:
    """A client, open while inside.

    Args:
        settings: settings of the command.
        looks_only: start no engine if there never was one, since the command only reads.
        waits: the command waits for something: a shared Redis that has answered before may be away for 30 s.
        tell: called with one line for everything that takes time.
        timings: of the client and the engine.

    Raises:
        NothingYet: `looks_only`, and there never was an engine.
        EngineError: the local engine cannot be started or used.
        StoreUnavailable: Redis does not answer.
    """
    from puter_client.client import PuterClient

    user = login_name(settings.environ)
    if settings.redis_url is not None:
        url = settings.redis_url
        named_by = settings.redis_url_from
        async with PuterClient.connect(
            url,
            namespace=settings.namespace,
            user=user,
            timings=timings,
            url_from=named_by,
            tell=tell if waits else None,
        ) as client:
            yield client
        return
    if looks_only and not (settings.paths.engine / "data").exists():
        raise NothingYet
    from puter_client.local import ensure_engine

    live.show("connecting to the local engine …")
    async with await ensure_engine(settings.paths, settings.environ, say=tell, timings=timings) as engine:
        live.clear()
        async with _kept_alive(engine, tell, timings), _own(engine.url, settings, user, timings) as client:
            # After a reboot the records are as old as the last worker: wait until they are compared with EC2.
            if not await client.reconciled(timeout_s=timings.reconcile_s):
                tell("warning: EC2 has not confirmed the live machines yet; this is their last known state")
            yield client


@asynccontextmanager
async def _kept_alive(engine: Engine, tell: Callable[[str], None], timings: ClientTimings) -> AsyncIterator[None]:
    """Keep the engine's worker running while inside."""
    import asyncio

    async def keep() -> None:
        while True:
            await asyncio.sleep(timings.revive_every_s)
            try:
                await engine.revive()
            except PuterError as error:
                tell(str(error))
                return

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


@asynccontextmanager
async def _own(url: str, settings: ClientSettings, user: str, timings: ClientTimings) -> AsyncIterator[PuterClient]:
    """A client of the engine's server, whose errors do not speak of its URL."""
    from puter_client.client import PuterClient

    try:
        async with PuterClient.connect(url, namespace=settings.namespace, user=user, timings=timings) as client:
            yield client
    except StoreUnavailable:
        raise StoreUnavailable(
            "the local engine's server stopped answering; nothing is lost, and the next command starts it again"
        ) from None


class Served:
    """Checks during a wait whether there is still a worker."""

    def __init__(self, client: PuterClient, settings: ClientSettings) -> None:
        self._client = client
        self._settings = settings
        self._gone = client.limit(client.timings.worker_gone_after_s)

    async def look(self) -> None:
        """Check that there was a worker recently.

        Raises:
            NoWorker: there was none for so long that waiting makes no sense.
        """
        no_worker = await why_no_worker(self._client, self._settings)
        if no_worker is None:
            self._gone.restart()
        elif self._gone.is_over:
            raise NoWorker(no_worker)


async def why_no_worker(client: PuterClient, settings: ClientSettings, *, within_s: float = 0.0) -> str | None:
    """What to say if a shared Redis has no worker and gets none within `within_s`; None if it has one."""
    import asyncio

    if settings.redis_url is None:
        return None
    no_worker = await _no_worker(client)
    if no_worker is None or not within_s:
        return no_worker
    limit = client.limit(within_s)
    await client.call_workers()
    live.show("no worker is running on this Redis: waiting for one to start …")
    try:
        while no_worker is not None and not limit.is_over:
            await asyncio.sleep(client.timings.look_every_s)
            no_worker = await _no_worker(client)
    finally:
        live.clear()
    return no_worker


async def _no_worker(client: PuterClient) -> str | None:
    try:
        await client.need_worker()
    except NoWorker as error:
        return str(error)
    return None
