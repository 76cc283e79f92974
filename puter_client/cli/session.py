"""A client for a command: on the shared Redis that is named, else on the local engine, which is started."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

from puter_client.cli.terminal import live, say
from puter_client.config import ClientSettings, Config, client_settings, login_name, read_config
from puter_client.contract.errors import NoWorker, PuterError, StoreUnavailable
from puter_client.paths import Paths

if TYPE_CHECKING:
    from puter_client.client import PuterClient
    from puter_client.local import Engine


RECONCILE_S = 10.0
STARTING_S = 5.0  # a worker that was started together with a command announces itself sooner
LOOK_EVERY_S = 0.1
REVIVED_EVERY_S = 2.0
GONE_S = 15.0  # workers that are replaced have their successors sooner


class NothingYet(PuterError):
    """Nobody has ever requested anything here, so a look needs no engine."""

    code: ClassVar[str] = "NothingYet"

    def __init__(self) -> None:
        super().__init__("nothing here yet: puter up --tag NAME")


def settings_of(namespace: str | None) -> ClientSettings:
    """The settings of this command; a password in a file that others can read is told of."""
    config, paths = here()
    return client_settings(os.environ, namespace=namespace, config=config, paths=paths)


def here() -> tuple[Config, Paths]:
    """The user's files and what `config.toml` says."""
    paths = Paths.from_environ(os.environ)
    config = read_config(paths.config_file)
    if config.open_to_others:
        say(f"warning: {paths.config_file} holds a password and others can read it: `chmod 600` it")
    return config, paths


@asynccontextmanager
async def connected(
    settings: ClientSettings, *, looks_only: bool = False, tell: Callable[[str], None] = say
) -> AsyncIterator[PuterClient]:
    """A client while inside.

    Args:
        settings: of the command.
        looks_only: a command that only looks starts no engine where none ever was.
        tell: is told of what takes time.

    Raises:
        NothingYet: looks_only, and there never was an engine.
        EngineError: the local engine cannot be started or used.
        StoreUnavailable: the Redis does not answer.
    """
    from puter_client.client import PuterClient

    user = login_name(settings.environ)
    if settings.redis_url is not None:
        async with PuterClient.connect(settings.redis_url, namespace=settings.namespace, user=user) as client:
            yield client
        return
    if looks_only and not (settings.paths.engine / "data").exists():
        raise NothingYet
    from puter_client.local import ensure_engine

    live.show("looking for the local engine …")
    async with await ensure_engine(settings.paths, settings.environ, say=tell) as engine:
        live.clear()
        async with _kept_alive(engine, tell), _own(engine.url, settings, user) as client:
            # After a reboot the records are as old as the last worker: EC2 is asked before anything is shown.
            if not await client.reconciled(timeout_s=RECONCILE_S):
                tell("EC2 has not confirmed what lives; shown is what was last known (puter why TAG tells more)")
            yield client


@asynccontextmanager
async def _kept_alive(engine: Engine, tell: Callable[[str], None]) -> AsyncIterator[None]:
    """See to it that the engine has a worker as long as the command goes on."""
    import asyncio

    async def keep() -> None:
        while True:
            await asyncio.sleep(REVIVED_EVERY_S)
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
async def _own(url: str, settings: ClientSettings, user: str) -> AsyncIterator[PuterClient]:
    """A client of the engine's server; its user has set no PUTER_REDIS_URL that could be wrong."""
    from puter_client.client import PuterClient

    try:
        async with PuterClient.connect(url, namespace=settings.namespace, user=user) as client:
            yield client
    except StoreUnavailable:
        raise StoreUnavailable(
            "the local engine's server does not answer any more; nothing is lost, and the next command starts it again"
        ) from None


class Served:
    """Looks now and then whether there is still somebody who takes the requests that are waited for."""

    def __init__(self, client: PuterClient, settings: ClientSettings) -> None:
        self._client = client
        self._settings = settings
        self._served_at = time.monotonic()

    async def look(self) -> None:
        """Be sure that there was a worker within the last while.

        Raises:
            NoWorker: there was none, and waiting has no end.
        """
        nobody = await nobody_serves(self._client, self._settings)
        if nobody is None:
            self._served_at = time.monotonic()
        elif time.monotonic() - self._served_at >= GONE_S:
            raise NoWorker(nobody)


async def nobody_serves(client: PuterClient, settings: ClientSettings, *, within_s: float = 0.0) -> str | None:
    """What to say if no worker takes the requests of a shared Redis, nor begins to within a time; None if one does."""
    import asyncio

    if settings.redis_url is None:
        return None
    deadline = time.monotonic() + within_s
    nobody = await _need_worker(client)
    if nobody is None or not within_s:
        return nobody
    live.show("no worker is running on this Redis; waiting a moment for one …")
    try:
        while nobody is not None and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_EVERY_S)
            nobody = await _need_worker(client)
    finally:
        live.clear()
    return nobody


async def _need_worker(client: PuterClient) -> str | None:
    try:
        await client.need_worker()
    except NoWorker as error:
        return str(error)
    return None
