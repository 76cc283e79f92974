"""Fixtures: a stand-in for EC2, moto in a process of its own on a loopback port, emptied before each test.

Run as a program it is that process: it prints its port, serves, and ends when its standard input does, so that it
never outlives a test run, however that ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from puter_worker.ec2.calls import Caller
from puter_worker.ec2.session import Sessions
from puter_worker.timings import Timings

REGION = "us-east-1"


@contextmanager
def moto_served() -> Iterator[str]:
    """A moto server of one's own; its address."""
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
        env={k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
    )
    assert server.stdin
    assert server.stdout
    with server:
        port = server.stdout.readline().strip()
        assert port, "moto did not start"
        yield f"http://127.0.0.1:{port}"
        server.stdin.close()


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """Address of a moto server that lives as long as the test run (one a process of pytest-xdist)."""
    with moto_served() as url:
        yield url


def reset_moto(url: str) -> None:
    """Has a moto server forget all that it holds."""
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"), timeout=30).close()


@pytest.fixture
def moto(moto_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Address of moto, empty, and an environment in which every AWS tool talks to it and knows nothing else."""
    reset_moto(moto_url)
    point_at(moto_url, monkeypatch, tmp_path)
    return moto_url


def point_at(url: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Has AWS tools of this process, and of those it starts, talk to `url` with test credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "aws-credentials"))


@pytest.fixture
async def sessions(moto: str) -> AsyncIterator[Sessions]:
    """Sessions that talk to moto."""
    opened = Sessions(Timings(credentials_again_s=0.0, credentials_told_s=600.0), version="0")
    yield opened
    await opened.aclose()


@pytest.fixture
def caller(sessions: Sessions) -> Caller:
    """A caller of the default credentials in us-east-1."""
    return Caller(sessions, profile=None, region=REGION)


def serve() -> None:
    """Serves until standard input ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)

    def end_with_the_starter() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_the_starter, daemon=True).start()
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve()
