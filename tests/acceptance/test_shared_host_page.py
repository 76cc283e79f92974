"""docs/shared-host.md is followed literally: its blocks are run by bash on a host that only has Debian's Redis.

`systemctl`, `useradd` and `docker` have stand-ins, which go by the unit's file and by compose.yaml.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tomllib
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

import boto3
import pytest
import redis

from puter_client.store.redis_url import RedisUrl
from tests.acceptance.page_host import ROOT, PageHost, blocks
from tests.integration.moto_server import moto_served

COMPOSE, PLAIN, USERS, POLICY = "With Compose", "Without containers", "Users", "What users may request"
ELSEWHERE = "From other hosts"  # an ssh tunnel from another host
BLOCKS = blocks("shared-host.md")
(REQUEST,) = blocks("shared-host.md", "console")[:1]

pytestmark = pytest.mark.skipif(
    shutil.which("redis-cli") is None and os.environ.get("CI") != "true", reason="redis-cli is not on this machine"
)


def commands(heading: str) -> list[str]:
    """The blocks of a section."""
    return [block.text for block in BLOCKS if block.heading == heading]


def urls(told: str) -> list[str]:
    """The URLs that commands have printed."""
    return re.findall(r"^PUTER_REDIS_URL=(.*)$", told, re.MULTILINE)


def signs_in(host: PageHost, url: str) -> bool:
    with host.as_user(url) as client:
        try:
            return bool(client.ping())
        except redis.AuthenticationError:
            return False


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """The simulated AWS of the host's workers."""
    with moto_served() as url:
        yield url


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, aws: str) -> Iterator[PageHost]:
    """A host on which the set-up without containers was followed, by a root whose files nobody else could read."""
    made = PageHost(tmp_path_factory.mktemp("page"))
    profiles = made.folder / "var/lib/puter/.aws"
    profiles.mkdir(parents=True)
    (profiles / "config").write_text(f"[profile research]\nregion = us-east-1\nendpoint_url = {aws}\n")
    (profiles / "credentials").write_text("[research]\naws_access_key_id = testing\naws_secret_access_key = testing\n")
    # moto launches one machine for each call; it has no rate limits.
    made.environ |= {"PUTER_PACE": "off", "PUTER_MAX_GROUP": "1", "PUTER_DRAIN_S": "2"}
    made.make_ready()
    wheel, set_up = commands(PLAIN)
    try:
        made.run("systemctl start redis-server")
        made.run(wheel)
        made.run(f"umask 077\n{set_up}")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def added(host: PageHost) -> str:
    """What the commands of "Users" have told."""
    (block,) = commands(USERS)
    return host.run(block)


def test_every_block_is_followed_or_named_here() -> None:
    others = {"Failing over"}  # test_failing_over.py follows them
    assert {block.heading for block in BLOCKS} - others == {COMPOSE, PLAIN, USERS, POLICY, ELSEWHERE}
    assert [len(commands(heading)) for heading in (COMPOSE, PLAIN, USERS, POLICY, ELSEWHERE)] == [1, 2, 1, 2, 1]


# -- without containers ------------------------------------------------------------------------------------------------


def test_services_can_read_what_they_need_and_no_password_of_another(host: PageHost) -> None:
    etc = host.folder / "etc/puter"
    installed = [path for path in (host.folder / "opt/puter").rglob("*") if not path.is_symlink()]
    read = [etc, etc / "redis.conf", etc / "acl", etc / "acl/users.acl", host.folder / "opt/puter", *installed]

    for path in read:
        mode = path.stat().st_mode
        assert mode & stat.S_IROTH, path
        assert not path.is_dir() or mode & stat.S_IXOTH, path
    assert {name: (etc / name).stat().st_mode & 0o777 for name in ("worker.env", "admin.env")} == {
        "worker.env": 0o600,
        "admin.env": 0o600,
    }


def test_the_workers_run_the_program_that_was_installed(host: PageHost) -> None:
    told = host.run("cd /var/lib/puter; /opt/puter/bin/python -c 'import puter_worker; print(puter_worker.__file__)'")

    assert Path(told.strip()).is_relative_to(host.folder / "opt/puter")
    installed, project = (host.folder / "etc/systemd/system", ROOT / "deploy")
    name = "puter-worker@.service"
    assert (installed / name).read_text() == (project / name).read_text()


def test_the_user_of_the_unit_is_made(host: PageHost) -> None:
    unit = RawConfigParser(strict=False)
    unit.read(host.folder / "etc/systemd/system/puter-worker@.service")
    *options, home, user = (host.folder / "run/useradd").read_text().split()

    assert (options, user) == (["--system", "--home-dir"], unit["Service"]["User"])
    assert f"HOME={home}" == host.place(unit["Service"]["Environment"])


def test_the_settings_of_the_project_hold_and_not_those_of_debian(host: PageHost) -> None:
    with host.as_admin() as admin:
        asked = ("appendonly", "appendfsync", "maxmemory-policy", "save", "bind")
        assert [admin.config_get(name)[name] for name in asked] == [
            "yes", "always", "noeviction", "", "127.0.0.1 -::1",
        ]  # fmt: skip


def test_nobody_without_a_password_gets_in(host: PageHost) -> None:
    assert not signs_in(host, f"redis://127.0.0.1:{host.port}/0")


def test_users_may_sign_in_until_they_are_removed(host: PageHost, added: str) -> None:
    team_a, betty, screen, betty_again = urls(added)

    assert [signs_in(host, url) for url in (team_a, betty, screen, betty_again)] == [True, False, True, False]
    assert "PUTER_NAMESPACE=team-a" in added
    listed = [line.split()[0] for line in added.partition("\nUSER ")[2].splitlines()[1:]]
    assert {"admin", "worker", "team-a", "screen"} <= set(listed)
    assert "betty" not in listed


def test_a_user_gets_a_machine_until_the_policy_forbids_it(host: PageHost, added: str, aws: str) -> None:
    url = urls(added)[0]
    exported, requested = [line.removeprefix("$ ") for line in REQUEST.text.splitlines()]
    variable, _, shown = exported.removeprefix("export ").partition("=")
    assert RedisUrl.parse(shown).user
    # With an AWS on this computer, a client asks nobody for its public address.
    asked = {variable: url, "AWS_ENDPOINT_URL": aws, "PATH": f"{host.folder}/opt/puter/bin:{host.environ['PATH']}"}
    host.run(requested, **asked)
    session = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name="us-east-1")
    (reservation,) = session.client("ec2", endpoint_url=aws).describe_instances()["Reservations"]
    (instance,) = reservation["Instances"]
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert (tags["puter:owner"], tags["puter:namespace"]) == ("team-a", "team-a")

    _, under_systemd = commands(POLICY)
    assert "etc/puter/policy.toml: ok" in host.run(under_systemd)
    with pytest.raises(AssertionError, match=r"not allowed .* profile 'research' \(rule profiles; allowed: sandbox\)"):
        host.run(requested.replace("bettys-puter", "another"), **asked)


# -- with Compose ------------------------------------------------------------------------------------------------------


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[PageHost]:
    """A host with Docker, and nothing else of what the page needs."""
    made = PageHost(tmp_path, containers=True)
    yield made
    made.close()


def test_compose_has_all_it_needs_after_the_commands(docker: PageHost) -> None:
    (block,) = commands(COMPOSE)
    deploy = docker.project / "deploy"
    (deploy / "redis.conf").chmod(0o600)  # as a `git clone` leaves it for whoever has this umask
    told = docker.run(f"umask 077\n{block}")

    (url,) = urls(told)
    assert RedisUrl.parse(url).user == "betty"
    assert [re.sub(r":[0-9a-f]{64}@", ":…@", (deploy / name).read_text()) for name in ("worker.env", "admin.env")] == [
        "PUTER_REDIS_URL=redis://worker:…@redis:6379/0\n",
        "PUTER_ADMIN_REDIS_URL=redis://admin:…@redis:6379/0\n",
    ]
    assert (deploy / "redis.conf").stat().st_mode & stat.S_IROTH
    assert told.splitlines()[-1] == "up: redis, worker"


def test_compose_finds_the_profiles_of_whoever_set_it_up(docker: PageHost, tmp_path: Path) -> None:
    (block,) = commands(COMPOSE)
    docker.run(block)

    assert docker.run("docker compose up --detach", HOME=str(tmp_path / "root")) == "up: redis, worker\n"


def test_compose_gives_the_workers_the_policy(docker: PageHost) -> None:
    (block,) = commands(COMPOSE)
    docker.run(block)
    with_compose, _ = commands(POLICY)
    told = docker.run(with_compose)

    assert "/etc/puter/policy/policy.toml" in told.splitlines()[-1]
    assert tomllib.loads((docker.project / "deploy/policy/policy.toml").read_text())["namespaces"]


@pytest.mark.parametrize(
    "mistyped",
    [
        "docker compose run --rm admn user add betty",
        "docker compose run --rm admin user ad betty",
        "docker compose up --biuld --detach",
        "docker compose up --detach",  # before the worker has a URL
        "systemctl restart redis-sever",
        "systemctl enable --now puter-wroker@1",
        "cat /etc/puterr/redis.conf",
    ],
)
def test_a_command_that_is_mistyped_is_found_out(docker: PageHost, mistyped: str) -> None:
    with pytest.raises(AssertionError):
        docker.run(mistyped)
