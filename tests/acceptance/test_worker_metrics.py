"""`puter worker --metrics`: a real worker on a real Redis and a simulated AWS, read as Prometheus reads it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from puter_client.client import MachineRequest, PuterClient
from puter_client.view import WaitFor
from tests.acceptance.cli_world import PATIENCE_S
from tests.integration.redis_servers import RedisServer
from tests.integration.workshop import spec

Start = Callable[..., subprocess.Popen[str]]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def start(valkey: RedisServer, moto: str, tmp_path: Path) -> Iterator[Start]:
    """Starts worker processes; whatever runs at the end is ended by its id."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, command: tuple[str, ...] = ("puter_worker",), **changed: str) -> subprocess.Popen[str]:
        environ = {**os.environ, "PUTER_REDIS_URL": valkey.url, "PUTER_HOME": str(tmp_path), "PUTER_MAX_GROUP": "1"}
        worker = subprocess.Popen(
            [sys.executable, "-m", *command, *options], env={**environ, **changed}, stderr=subprocess.PIPE, text=True
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.poll() is None:
            worker.kill()
        worker.communicate(timeout=PATIENCE_S)


def read(port: int, worker: subprocess.Popen[str]) -> str:
    """What Prometheus gets; it is asked until the worker listens."""
    while True:
        assert worker.poll() is None, worker.communicate()[1]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain")
                return str(answer.read().decode())
        except urllib.error.URLError:
            time.sleep(0.05)  # until it listens; there is no event to wait for


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def seen(port: int, worker: subprocess.Popen[str], reached: Callable[[Samples], bool]) -> Samples:
    """The metrics as soon as they are so."""
    async with asyncio.timeout(120):
        while not reached(found := samples(await asyncio.to_thread(read, port, worker))):
            await asyncio.sleep(0.2)
    return found


async def test_a_scrape_shows_what_a_worker_did_and_what_waits(start: Start, valkey: RedisServer) -> None:
    port = free_port()
    worker = start("--metrics", f"127.0.0.1:{port}", PUTER_PACE="off")
    async with PuterClient.connect(valkey.url, namespace="betty", user="betty") as betty:
        tags = [f"t-{n}" for n in range(3)]
        batch = await betty.submit([MachineRequest(tag, spec()) for tag in tags])
        await betty.wait(batch_id=batch, tags=tags, wait=WaitFor.RUNNING, timeout_s=120)
    with valkey.client() as other:
        other.rpush("puter:_in:betty", '{"type":"up","tag":"../../etc"}', "no request")
        other.sadd("puter:_ready", "betty")
        other.publish("puter:_ready", "")
    refused = ("puter_refused_requests_total", (("namespace", "betty"), ("rule", RULE)))
    running = ("puter_machines", (("target", "123456789012:us-east-1:"),))
    found = await seen(port, worker, lambda all_of_it: all_of_it.get(refused, 0) == 2 and all_of_it.get(running) == 3)

    assert found["puter_launches_total", (("outcome", "launched"),)] == 3
    assert found["puter_launched_machines_total", ()] == 3
    assert found["puter_launch_group_machines_bucket", (("le", "1.0"),)] == 3
    assert found["puter_ec2_calls_total", (("action", "RunInstances"), ("code", "ok"))] == 3
    assert found["puter_ec2_call_seconds_count", (("action", "RunInstances"),)] == 3
    assert found["puter_workers", ()] == found["puter_redis_up", ()] == 1
    assert found["puter_keys", (("phase", "running"),)] == 3
    assert found["puter_overdue_machines", (("target", "123456789012:us-east-1:"),)] == 0
    assert found["puter_redis_memory_bytes", ()] > 0
    assert found["puter_stage_runs_total", (("outcome", "success"), ("stage", "intake"))] > 0
    stages = {labels for name, labels in found if name == "puter_stage_last_success_timestamp_seconds"}
    assert {("stage", "intake"), ("stage", "launch")} <= {label for labels in stages for label in labels}


POLICY = """
[namespaces."*"]
default_credentials = true
regions = ["eu-*"]
instance_types = ["t3.*"]
images = ["*"]
ssh_from = ["0.0.0.0/0"]
ssh_from_count = 5
disk = "unlimited"
longest_ttl = "12h"
most_machines = "unlimited"
most_vcpus = "unlimited"
most_machines_an_hour = "unlimited"
most_requests = "unlimited"
most_records = "unlimited"
"""


async def test_what_a_policy_refuses_is_counted_by_its_rules(start: Start, valkey: RedisServer, tmp_path: Path) -> None:
    """At intake, and where it is known only later: the request names no region, and the worker's is not allowed."""
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    port = free_port()
    worker = start("--metrics", f"127.0.0.1:{port}", PUTER_PACE="off", PUTER_POLICY=str(policy))
    async with PuterClient.connect(valkey.url, namespace="betty", user="betty") as betty:
        large = spec(instance_type="m5.24xlarge", region="eu-west-1")
        await betty.submit([MachineRequest("large", large), MachineRequest("far", spec(region=None))])

    def count(found: Samples, rule: str) -> float:
        return found.get(("puter_refused_requests_total", (("namespace", "betty"), ("rule", f"policy: {rule}"))), 0)

    await seen(port, worker, lambda found: count(found, "instance_types") == count(found, "regions") == 1)


async def test_credentials_that_fail_are_shown_while_a_request_waits_for_them(
    start: Start, valkey: RedisServer, tmp_path: Path
) -> None:
    port = free_port()
    config = tmp_path / "aws-config"
    config.write_text("[profile broken]\ncredential_process = /bin/false\n")
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.replace("default_credentials = true", 'profiles = ["broken"]'))
    worker = start(
        "--metrics", f"127.0.0.1:{port}", PUTER_PACE="off", PUTER_POLICY=str(policy), AWS_CONFIG_FILE=str(config)
    )
    async with PuterClient.connect(valkey.url, namespace="betty", user="betty") as betty:
        await betty.submit([MachineRequest("one", spec(profile="broken", region="eu-west-1"))])
        failing = "puter_credentials_failing_seconds", (("profile", "broken"),)
        await seen(port, worker, lambda found: found.get(failing, -1.0) > 0)
        await betty.cancel(["one"])


RULE = "not a request that this worker's version can read"


async def test_what_waits_is_shown_with_its_age(start: Start, valkey: RedisServer) -> None:
    port = free_port()
    worker = start("--metrics", f"127.0.0.1:{port}")
    await seen(port, worker, lambda found: found["puter_workers", ()] == 1)
    with valkey.client() as other:
        other.set("puter:_taking:betty", "another", px=3_600_000)  # another intake reads it, as far as anyone knows
        other.set("puter:_taking:betty:anna", "another", px=3_600_000)
        other.rpush("puter:_in:betty", "a")
        other.rpush("puter:_in:betty:anna", "b")
        other.sadd("puter:_ready", "betty", "betty:anna")
        other.zadd("puter:_targets", {"1:r:p": 10**10})
        other.zadd("puter:_due:labels:1:r:p", {"betty/t#1": 1.0})
    of_betty = (("namespace", "betty"),)
    found = await seen(port, worker, lambda found: found.get(("puter_inbox_age_seconds", of_betty), 0) > 0)

    assert found["puter_inbox_requests", of_betty] == 2
    assert found["puter_inboxes", ()] == 2
    assert found["puter_queue_items", (("queue", "labels"),)] == 1
    assert found["puter_queue_age_seconds", (("queue", "labels"),)] > 1_000_000


def test_metrics_are_still_served_when_redis_is_gone_and_say_so(
    start: Start, tmp_path: Path, own_valkey: RedisServer
) -> None:
    port = free_port()
    worker = start("--metrics", f"127.0.0.1:{port}", PUTER_REDIS_URL=own_valkey.url)
    assert "puter_redis_up 1.0" in read(port, worker)
    own_valkey.kill()
    while "puter_redis_up 0.0" not in (text := read(port, worker)):
        pass

    assert "puter_workers" not in text
    assert 'puter_stage_last_success_timestamp_seconds{stage="intake"' in text


def test_the_variable_does_the_same_and_the_option_goes_before(start: Start) -> None:
    port, other = free_port(), free_port()
    by_variable = start(PUTER_METRICS=f"127.0.0.1:{port}")
    by_option = start("--metrics", str(other), PUTER_METRICS=f"127.0.0.1:{port}")

    assert "puter_worker_info" in read(port, by_variable)
    assert "puter_worker_info" in read(other, by_option)


def test_without_the_option_nothing_is_loaded(start: Start) -> None:
    worker = start("--burst", PYTHONPROFILEIMPORTTIME="1")
    _, told = worker.communicate(timeout=60)

    assert worker.returncode == 0
    assert "puter_worker.worker" in told
    assert not re.findall(r"prometheus_client|puter_worker.endpoint|aiohttp.web_app", told)


@pytest.mark.parametrize("command", [("puter_worker",), ("puter_client.cli", "worker")], ids=["service", "command"])
@pytest.mark.parametrize("address", ["nowhere:port", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:9464", "[]:1"])
def test_an_address_that_is_none_ends_the_worker_with_one_line(
    start: Start, command: tuple[str, ...], address: str
) -> None:
    worker = start("--metrics", address, command=command)
    _, told = worker.communicate(timeout=60)

    assert worker.returncode == 2
    assert told == f"puter worker: --metrics '{address}': write an address and a port, such as 127.0.0.1:9464\n"


def test_an_address_that_is_taken_ends_the_worker_with_one_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        worker = start("--metrics", address)
        _, told = worker.communicate(timeout=60)

    assert worker.returncode == 2
    assert told.splitlines()[0].startswith(f"puter worker: --metrics {address}: cannot listen there (")
    assert len(told.splitlines()) == 1
