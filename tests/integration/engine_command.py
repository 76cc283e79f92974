"""A stand-in for a command: starts or joins the engine, says so in a line of JSON, and uses it until its stdin ends."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from puter_client.contract.errors import PuterError
from puter_client.local import ensure_engine
from puter_client.paths import Paths

STUB = Path(__file__).with_name("engine_worker.py")


async def use() -> int:
    said: list[str] = []
    try:
        paths = Paths.from_environ(os.environ)
        engine = await ensure_engine(paths, os.environ, say=said.append, worker_command=[sys.executable, str(STUB)])
    except PuterError as error:
        print(json.dumps({"error": str(error), "code": error.exit_code, "said": said}), flush=True)
        return error.exit_code
    async with engine:
        print(json.dumps({"url": engine.url, "said": said}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(use()))
