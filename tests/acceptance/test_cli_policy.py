"""A policy, as people meet it: the commands, the worker that reads it, and what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from puter_client.watch import NOTHING_KEPT
from puter_worker.store import names
from puter_worker.store.row_shares import MOST_REFUSED
from tests.acceptance.cli_world import PATIENCE_S, PUTER, CliWorld
from tests.integration.engine_world import wait_for
from tests.integration.redis_servers import RedisServer, running_server, server_binaries

POLICY = """[namespaces."*"]
profiles = ["lab"]
default_profile = "lab"
regions = ["us-east-1"]
instance_types = ["t3.*"]
images = ["al2023"]
ssh_from_ipv4_prefix = 32
ssh_from_count = 1
longest_ttl = "2h"
most_machines = 10
most_vcpus = "unlimited"
most_machines_an_hour = 10
most_requests = 10
most_records = 10
[namespaces.art]
profiles = ["lab", "paint"]
"""
KEYS = "aws_access_key_id = testing\naws_secret_access_key = testing\n"
FROM = ("--ssh-from", "192.0.2.7")


@pytest.fixture
def shared() -> Iterator[RedisServer]:
    """A Redis of a team, empty."""
    with running_server(server_binaries()["valkey"]) as server:
        yield server


@pytest.fixture
def team(fresh: CliWorld, shared: RedisServer) -> CliWorld:
    """A world whose commands and workers use that Redis, with AWS profiles and a policy."""
    folder = fresh.home.parent
    config = folder / "aws-config"
    program = folder / "get-keys"
    program.write_text(f"#!/bin/sh\ntouch {folder}/was-run\n")
    program.chmod(0o700)
    config.write_text(
        "".join(f"[profile {name}]\n{KEYS}" for name in ("lab", "paint", "secret"))
        + f"[profile program]\ncredential_process = {program}\n"
        + "[profile of-program]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = program\n"
    )
    (folder / "policy.toml").write_text(POLICY)
    fresh.environ |= {"PUTER_REDIS_URL": shared.url, "AWS_CONFIG_FILE": str(config)}
    return fresh


class Running:
    """A worker process.

    Attributes:
        log: where it logs to.
    """

    def __init__(self, log: Path) -> None:
        self.log = log

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its log lines of this event."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == name]


@contextmanager
def worker(world: CliWorld, *, policy: bool = True) -> Iterator[Running]:
    """A worker runs while inside; on ending, nothing that it logged is an internal error."""
    log = world.home.parent / "worker.log"
    extra = {"PUTER_POLICY": str(world.home.parent / "policy.toml")} if policy else {}
    with (
        log.open("w") as out,
        subprocess.Popen(
            [*PUTER, "worker"], env={**world.environ, **extra}, stderr=out, cwd=world.home.parent
        ) as process,
    ):
        running = Running(log)
        wait_for(lambda: bool(running.events("worker.started")), "the worker")
        try:
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
    assert running.events("stage.failed") == []


def published(shared: RedisServer, pattern: str) -> str:
    """All that workers publish under some names."""
    with shared.client() as redis:
        keys = [key for key in redis.scan_iter(pattern) if redis.type(key) == b"string"]
        return " ".join((redis.get(key) or b"").decode() for key in keys)


def test_a_request_that_is_not_allowed_is_refused_with_the_rule_and_exit_code_1(team: CliWorld) -> None:
    with worker(team) as running:
        ran = team.puter("up", "big", *FROM, "--instance-type", "c7i.large")
        why = team.puter("why", "big")
        told = team.puter("submit", "--tag", "x-{i}", "--count", "3", *FROM, "--instance-type", "c7i.large", "--json")
        wait_for(lambda: bool(running.events("requests.refused")), "the refusal in the log")
        (line, *_) = running.events("requests.refused")

    said = "not allowed by the workers' policy for namespace betty: instance type c7i.large "
    said += "(rule instance_types; allowed: t3.*)"
    assert (ran.code, f"big: refused: {said}" in ran.err + ran.out) == (1, True)
    assert said in why.out
    assert (told.code, {one["reason"] for one in told.objects()}) == (1, {said})
    assert (line["namespace"], line["why"]) == ("betty", {"policy: instance_types": 1})
    assert line["examples"] == {"policy: instance_types": said}


def test_a_refused_request_of_which_nothing_is_kept_ends_with_a_plain_sentence(
    team: CliWorld, shared: RedisServer
) -> None:
    """So much was refused of its namespace today that what is refused leaves nothing in Redis."""
    with shared.client() as behind:
        behind.set(names.refused("betty"), MOST_REFUSED)
    with worker(team):
        one = team.puter("up", "big", *FROM, "--instance-type", "c7i.large")
        many = team.puter("submit", "--tag", "x-{i}", "--count", "3", *FROM, "--instance-type", "c7i.large")
        waits = team.puter(
            "submit", "--tag", "y-{i}", "--count", "3", *FROM, "--instance-type", "c7i.large", "--wait", "running"
        )
        why = team.puter("why", "big")

    for ran in (one, many, waits):
        assert ran.code == 1
        assert NOTHING_KEPT in ran.err + ran.out
    assert (why.code, "big is not known in namespace betty" in why.err) == (1, True)


def test_a_request_without_a_profile_gets_the_one_that_the_policy_names(team: CliWorld) -> None:
    with worker(team):
        (told,) = team.puter("up", "one", *FROM, "--json").objects()

    assert (told["phase"], told["profile"]) == ("running", "lab")


def test_a_request_without_a_profile_is_refused_where_the_policy_names_none(team: CliWorld) -> None:
    path = team.home.parent / "policy.toml"
    path.write_text(POLICY.replace('default_profile = "lab"\n', ""))
    with worker(team):
        ran = team.puter("up", "one", *FROM)

    assert ran.code == 1
    assert (
        "a request without an AWS profile (rule default_credentials; allowed: name one with --profile: lab)" in ran.err
    )


def test_a_worker_does_not_start_with_a_bad_policy(team: CliWorld) -> None:
    path = team.home.parent / "policy.toml"
    path.write_text("[namespaces.art]\nspots = true\n")

    ran = team.puter("worker", "--burst", PUTER_POLICY=str(path))

    told = f"PUTER_POLICY {path}: line 2: [namespaces.art] 'spots': unknown rule; did you mean spot?"
    assert (ran.code, ran.err) == (2, f"puter worker: {told}\n")


def test_a_policy_that_changes_is_in_force_soon_and_a_bad_one_never(team: CliWorld, shared: RedisServer) -> None:
    path = team.home.parent / "policy.toml"
    with worker(team) as running:
        path.write_text("[namespaces.art]\nspots = true\n")
        wait_for(lambda: bool(running.events("policy.unusable")), "the error")
        still = team.puter("up", "one", *FROM)
        wait_for(
            lambda: "the policy read before stays in force" in published(shared, "puter:_public:worker:*"),
            "the error in the health",
        )
        path.write_text(POLICY.replace('"t3.*"', '"c7i.large"'))
        wait_for(lambda: bool(running.events("policy.read")), "the new policy")
        refused = team.puter("up", "two", *FROM)

    assert (still.code, refused.code) == (0, 1)
    assert "instance type t3.micro (rule instance_types; allowed: c7i.large)" in refused.err
    (unusable,) = running.events("policy.unusable")
    assert "did you mean spot?" in unusable["problems"][0]


@pytest.mark.parametrize("profile", ["program", "of-program"])
def test_without_a_policy_no_program_is_run_for_whoever_names_its_profile(
    team: CliWorld, shared: RedisServer, profile: str
) -> None:
    with worker(team, policy=False) as running:
        ran = team.puter("up", "one", *FROM, "--profile", profile)
        names = published(shared, "puter:_public:worker:*")

    assert ran.code == 1
    assert f"PolicyRefused: AWS profile '{profile}' gets its credentials from a program (credential_process)" in ran.err
    assert "name the profile in a policy (PUTER_POLICY)" in ran.err
    assert not (team.home.parent / "was-run").exists()
    assert (profile in names, "secret" in names) == (False, True)
    assert len(running.events("policy.missing")) == 1


def test_a_policy_that_names_the_profile_of_a_program_allows_it(team: CliWorld) -> None:
    path = team.home.parent / "policy.toml"
    path.write_text(POLICY.replace('["lab"]', '["lab", "program"]'))
    with worker(team):
        team.puter("submit", "--tag", "one", *FROM, "--profile", "program", "--wait", "queued")
        wait_for((team.home.parent / "was-run").exists, "the program to run")


def test_names_of_profiles_are_published_for_those_who_may_use_them(team: CliWorld, shared: RedisServer) -> None:
    with worker(team):
        team.puter("up", "one", *FROM, "--profile", "paint", PUTER_NAMESPACE="art")

        def own() -> str:
            return published(shared, "puter:art:worker:*")

        wait_for(lambda: "observe 123456789012:us-east-1:paint" in own(), "the stages of the profile")
        everybody, others = published(shared, "puter:_public:*"), published(shared, "puter:betty:*")

    assert ("lab" in everybody, "paint" in everybody, "secret" in everybody) == (True, False, False)
    assert ("paint" in own(), "secret" in own()) == (True, False)
    assert others == ""


def test_an_order_to_end_later_keeps_within_the_longest_ttl(team: CliWorld) -> None:
    with worker(team):
        team.puter("up", "one", *FROM)
        extended = team.puter("extend", "one", "never")
        longer = team.puter("extend", "one", "+90m")
        why = team.puter("why", "one").out
        again = team.puter("up", "one", *FROM, "--ttl", "3h")

    never = "a machine that never ends itself (rule no_shutdown; allowed: nothing)"
    assert (extended.code, never in extended.err, never in why) == (1, True, True)
    assert (longer.code, "a life of 2h30m (rule longest_ttl; allowed: 2h)" in longer.err) == (1, True)
    assert again.code == 1
    assert "(rule longest_ttl; allowed: 2h)" in again.err


def test_check_tells_what_each_namespace_can_do(team: CliWorld) -> None:
    ran = team.puter("admin", "policy", "check", "policy.toml")

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[:3] == ["every other namespace:", "  AWS profiles: lab", "  regions: us-east-1"]
    assert ran.out.splitlines()[-1] == "policy.toml: ok"


def test_check_takes_the_file_of_the_workers_and_tells_it_as_json(team: CliWorld) -> None:
    path = str(team.home.parent / "policy.toml")
    ran = team.puter("admin", "policy", "check", PUTER_POLICY=path)
    everybody, art = team.puter("admin", "policy", "check", "--json", PUTER_POLICY=path).objects()

    assert (ran.code, ran.out.splitlines()[-1]) == (0, f"{path}: ok")
    assert (everybody["namespace"], everybody["rules"]["profiles"]["value"]) == ("*", ["lab"])
    assert (art["namespace"], art["rules"]["profiles"]["table"], art["warnings"]) == ("art", "art", [])


def test_check_warns_of_who_is_always_refused_without_a_profile(team: CliWorld) -> None:
    (team.home.parent / "policy.toml").write_text(POLICY.replace('default_profile = "lab"\n', ""))
    ran = team.puter("admin", "policy", "check", "policy.toml")

    told = "each request without --profile is refused: set default_profile to one of its profiles"
    assert ran.code == 0
    assert ran.err.splitlines() == [
        f"puter: warning: every other namespace: {told} (lab)",
        f"puter: warning: namespace art: {told} (lab, paint)",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[namespaces.art]\nspots = true\nprofiles = 3\n", 2),
        ("[namespaces", 1),
        ("", 1),
    ],
)
def test_check_tells_every_problem_of_a_file(team: CliWorld, text: str, told: int) -> None:
    (team.home.parent / "bad.toml").write_text(text)
    ran = team.puter("admin", "policy", "check", "bad.toml")

    assert (ran.code, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == told


def test_explain_tells_what_one_namespace_may_request(team: CliWorld) -> None:
    path = str(team.home.parent / "policy.toml")
    ran = team.puter("admin", "policy", "explain", "art", "--policy", path)
    (told,) = team.puter("admin", "policy", "explain", "art", "--json", PUTER_POLICY=path).objects()

    assert (ran.code, "AWS profiles: lab, paint" in ran.out, "no Spot instance" in ran.out) == (0, True, True)
    assert told["rules"]["profiles"]["value"] == ["lab", "paint"]
    assert (told["namespace"], told["lacking"]) == ("art", [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explain", "art"], "no policy file: name it with --policy, or set PUTER_POLICY"),
        (["explain", "Art", "--policy", "policy.toml"], "namespace 'Art': use 1 to 39"),
        (["check"], "no policy file: name it as FILE, or set PUTER_POLICY"),
        (["check", "missing.toml"], "missing.toml: cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_used_is_told_with_exit_code_2(team: CliWorld, words: list[str], said: str) -> None:
    ran = team.puter("admin", "policy", *words)

    assert (ran.code, ran.out, said in ran.err) == (2, "", True)


@pytest.mark.parametrize("words", [["check", "evil.toml"], ["explain", "art", "--policy", "evil.toml"]])
@pytest.mark.parametrize("key", ["profiles", "\\u202e"])
def test_what_a_file_says_is_obeyed_by_no_terminal(team: CliWorld, words: list[str], key: str) -> None:
    (team.home.parent / "evil.toml").write_text(POLICY + f'[namespaces.evil]\n"{key}" = ["a\\u202eb"]\n')

    ran = team.puter("admin", "policy", *[word.replace("art", "evil") for word in words])

    assert "\u202e" not in ran.out + ran.err
    assert "\ufffd" in ran.out + ran.err
