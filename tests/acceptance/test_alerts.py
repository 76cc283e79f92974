"""deploy/alerts.yml, deploy/grafana-dashboard.json and the pages name what a worker really exports."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.redis_servers import running_server, server_binaries

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "alerts.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
# Debian's package `prometheus` has it; where it is not, the rules are held to the worker's metrics alone.
PROMTOOL = shutil.which("promtool")
promtool = pytest.mark.skipif(
    PROMTOOL is None and os.environ.get("CI") != "true", reason="promtool is not on this machine"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """Names of the series that a real worker shows, or would show once there is something to count."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("worker")
    with running_server(server_binaries()["valkey"]) as server:
        environ = {**os.environ, "PUTER_REDIS_URL": server.url, "PUTER_HOME": str(folder)}
        command = [sys.executable, "-m", "puter_worker", "--metrics", address]
        with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as worker:
            try:
                yield series_of(read(address, worker))
            finally:
                worker.kill()


def read(address: str, worker: subprocess.Popen[bytes]) -> str:
    while True:
        assert worker.poll() is None
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError:
            time.sleep(0.05)  # until it listens; there is no event to wait for


def series_of(text: str) -> set[str]:
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    return {
        f"{name}{suffix}"
        for name, kind in kinds.items()
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }


def named(query: str) -> set[str]:
    return set(re.findall(r"\b(?:puter|process)_[a-z0-9_]+", query))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_uses_metrics_that_a_worker_exports(exported: set[str], rule: dict[str, Any]) -> None:
    assert named(rule["expr"])
    assert named(rule["expr"]) <= exported


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_of_the_dashboard_uses_metrics_that_a_worker_exports(exported: set[str], query: str) -> None:
    assert named(query)
    assert named(query) <= exported


def test_the_dashboard_shows_all_that_is_exported(exported: set[str]) -> None:
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for query in QUERIES for name in named(query)}
    known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported if name.startswith("puter_")}

    assert known <= shown


def test_operations_explains_all_that_is_exported_and_nothing_else(exported: set[str]) -> None:
    page = (ROOT / "docs" / "operations.md").read_text().partition("\n## Metrics")[2].partition("\n## ")[0]
    told = {
        name
        for row in re.findall(r"^\| (`puter_.*?`) \|", page, re.MULTILINE)
        for name in re.findall(r"`(puter_[a-z0-9_]+)", row)
    }
    known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported if name.startswith("puter_")}

    assert told == known


def test_panels_do_not_lie_on_each_other() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    told = [(set(rule["annotations"]), rule["labels"]["severity"] in {"critical", "warning"}) for rule in RULES]

    assert told == [({"summary", "description"}, True)] * len(RULES)


@promtool
def test_prometheus_finds_nothing_wrong_with_the_rules() -> None:
    told = subprocess.run([str(PROMTOOL), "check", "rules", ALERTS], capture_output=True, text=True, check=False)

    assert told.returncode == 0, told.stderr
    assert f"{len(RULES)} rules found" in told.stdout


MEMORY, LIMIT = "puter_redis_memory_bytes", "puter_redis_memory_limit_bytes"
STAGE = 'puter_stage_last_success_timestamp_seconds{stage="observe", target="1:r:"}'
# When each alert fires: series as promtool writes them, one value a minute.
FIRES: list[tuple[str, dict[str, str], bool]] = [
    ("PuterNoWorker", {"puter_workers": "0x20"}, True),
    ("PuterNoWorker", {}, True),
    ("PuterNoWorker", {"puter_workers": "1x20"}, False),
    ("PuterRedisDown", {'puter_redis_up{instance="a"}': "1x20", 'puter_redis_up{instance="b"}': "0x20"}, True),
    ("PuterRedisDown", {'puter_redis_up{instance="a"}': "1x20"}, False),
    ("PuterStageWithoutSuccess", {STAGE: "0x20"}, True),
    ("PuterStageWithoutSuccess", {STAGE: "0+60x20"}, False),
    ("PuterCredentialsFailing", {'puter_credentials_failing_seconds{profile=""}': "0+60x20"}, True),
    ("PuterCredentialsFailing", {'puter_credentials_failing_seconds{profile="lab"}': "30x20"}, False),
    ("PuterInboxNotRead", {'puter_inbox_age_seconds{namespace="betty"}': "0+60x20"}, True),
    ("PuterInboxNotRead", {'puter_inbox_age_seconds{namespace="betty"}': "0x20"}, False),
    ("PuterQueueOverdue", {'puter_queue_age_seconds{queue="labels"}': "0+60x20"}, True),
    ("PuterQueueOverdue", {'puter_queue_age_seconds{queue="launch_queue"}': "0+60x20"}, False),
    ("PuterManyRefused", {'puter_refused_requests_total{namespace="m", rule="tag"}': "0+600x20"}, True),
    ("PuterManyRefused", {'puter_refused_requests_total{namespace="m", rule="tag"}': "0+6x20"}, False),
    ("PuterCallsRefused", {'puter_ec2_calls_total{action="CreateTags", code="Blocked"}': "0+600x20"}, True),
    ("PuterCallsRefused", {'puter_ec2_calls_total{action="CreateTags", code="ok"}': "0+600x20"}, False),
    ("PuterMachineOverdue", {'puter_overdue_machines{target="1:r:"}': "2x20"}, True),
    ("PuterMachineOverdue", {'puter_overdue_machines{target="1:r:"}': "0x20"}, False),
    ("PuterRedisMemoryNearItsLimit", {MEMORY: "9x20", LIMIT: "10x20"}, True),
    ("PuterRedisMemoryNearItsLimit", {MEMORY: "9x20", LIMIT: "0x20"}, False),
]  # fmt: skip


def test_each_alert_is_tried_both_ways() -> None:
    tried = {(name, fires) for name, _, fires in FIRES}

    assert tried == {(rule["alert"], fires) for rule in RULES for fires in (True, False)}


@promtool
@pytest.mark.parametrize(("alert", "series", "fires"), FIRES)
def test_an_alert_fires_when_it_should(tmp_path: Path, alert: str, series: dict[str, str], fires: bool) -> None:
    given = [{"series": name, "values": values} for name, values in series.items()]
    expected = [{"expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)', "eval_time": "18m",
                 "exp_samples": [{"labels": "{}", "value": int(fires)}]}]  # fmt: skip
    trial = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m",
             "tests": [{"interval": "1m", "input_series": given, "promql_expr_test": expected}]}  # fmt: skip
    (tmp_path / "trial.yml").write_text(yaml.safe_dump(trial))
    told = subprocess.run(
        [str(PROMTOOL), "test", "rules", tmp_path / "trial.yml"], capture_output=True, text=True, check=False
    )

    assert told.returncode == 0, told.stdout + told.stderr
