"""`python -m tests.ec2sim`: serves one simulated EC2 on loopback until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

import msgspec
from aiohttp import web

from tests.ec2sim.app import make_app
from tests.ec2sim.config import SimConfig
from tests.ec2sim.world import World


async def serve(config: SimConfig, port: int, *, stop_at_eof: bool) -> None:
    """Prints its address when it answers, and ends at SIGTERM, SIGINT or, if wanted, the end of its input."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if stop_at_eof:
        # Whoever started it holds the other end; it must not outlive them.
        loop.add_reader(sys.stdin.fileno(), _stop_at_eof, stop)
    runner = web.AppRunner(make_app(World(config)), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, shutdown_timeout=0.1)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await stop.wait()
    await runner.cleanup()


def _stop_at_eof(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1_024):
        stop.set()


def main() -> None:
    """Reads the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.ec2sim", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--config", default="{}", help="fields of SimConfig, as JSON")
    parser.add_argument("--stop-at-eof", action="store_true", help="end when standard input does")
    options = parser.parse_args()
    try:
        config = msgspec.json.decode(options.config, type=SimConfig)
    except msgspec.MsgspecError as error:
        parser.error(f"--config: {error}")
    asyncio.run(serve(config, options.port, stop_at_eof=options.stop_at_eof))


if __name__ == "__main__":
    main()
