"""A client for a command: on the shared Redis that is named, else on the embedded engine, which is started."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

from puter_client.cli.terminal import live, say
from puter_client.config import Config, Settings, login_name, read_config, settle
from puter_client.contract.errors import NoWorker, PuterError
from puter_client.paths import Paths

if TYPE_CHECKING:
    from puter_client.client import PuterClient


RECONCILE_S = 10.0


class NothingYet(PuterError):
    """Nobody has ever wished for anything here, so a look needs no engine."""

    code: ClassVar[str] = "NothingYet"

    def __init__(self) -> None:
        super().__init__("nothing here yet: puter up --tag NAME")


def settings_of(namespace: str | None) -> Settings:
    """The settings of this command; a password in a file that others can read is told of."""
    config, paths = here()
    return settle(os.environ, namespace=namespace, config=config, paths=paths)


def here() -> tuple[Config, Paths]:
    """The user's files and what `config.toml` says."""
    paths = Paths.from_environ(os.environ)
    config = read_config(paths.config_file)
    if config.open_to_others:
        say(f"warning: {paths.config_file} holds a password and others can read it: `chmod 600` it")
    return config, paths


@asynccontextmanager
async def connected(
    settings: Settings, *, looks_only: bool = False, tell: Callable[[str], None] = say
) -> AsyncIterator[PuterClient]:
    """A client while inside.

    Args:
        settings: of the command.
        looks_only: a command that only looks starts no engine where none ever was.
        tell: is told of what takes time.

    Raises:
        NothingYet: looks_only, and there never was an engine.
        EngineError: the embedded engine cannot be started or used.
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
        async with PuterClient.connect(engine.url, namespace=settings.namespace, user=user) as client:
            # After a reboot the records are as old as the last worker: EC2 is asked before anything is shown.
            if not await client.reconciled(timeout_s=RECONCILE_S):
                tell("EC2 has not confirmed what lives; shown is what was last known (puter why TAG tells more)")
            yield client


async def nobody_serves(client: PuterClient, settings: Settings) -> str | None:
    """What to say if no worker takes the wishes of a shared Redis; None if one does."""
    if settings.redis_url is None:
        return None
    try:
        await client.need_worker()
    except NoWorker as error:
        return str(error)
    return None
