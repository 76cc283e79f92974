"""compose.yaml is what Compose reads, and keeps what the pages say of it."""

from __future__ import annotations

import json
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from puter_client.acl.host import SERVICES_ADDRESS_VARIABLE, HostFolder
from puter_client.cli.admin_user import user
from puter_client.contract.duration import parse_duration_s
from puter_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
REDIS, WORKER, ADMIN = (COMPOSE["services"][name] for name in ("redis", "worker", "admin"))
SERVICES = pytest.mark.parametrize("service", COMPOSE["services"].values(), ids=COMPOSE["services"])
_LINES = [line.split() for line in (ROOT / "deploy" / "redis.conf").read_text().splitlines() if line[:1] != "#"]
SETTINGS = {line[0]: line[1:] for line in _LINES if line}
DRAIN_S = WorkerSettings(redis_url="", worker_id="", host="").drain_s


def test_it_is_as_the_compose_specification_has_it() -> None:
    package = distribution("check-jsonschema")  # it brings the specification's own schema along
    shipped = package.locate_file("check_jsonschema/builtin_schemas/vendor/compose-spec.json")
    schema = json.loads(Path(str(shipped)).read_text())

    jsonschema.validators.validator_for(schema)(schema).validate(COMPOSE)


def test_there_are_two_workers() -> None:
    assert WORKER["deploy"]["replicas"] == 2


def test_workers_wait_for_a_redis_that_answers() -> None:
    assert WORKER["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert "PING" in REDIS["healthcheck"]["test"][1]


def test_a_worker_may_drain_before_it_is_killed() -> None:
    assert parse_duration_s(WORKER["stop_grace_period"]) > DRAIN_S


MB = 1_000_000
SIZES = {"gb": 1 << 30, "mb": 1 << 20, "g": 1 << 30, "m": 1 << 20}


def size(text: str) -> int:
    """Bytes as Redis and Compose write them."""
    found = re.fullmatch(r"(\d+)(gb|mb|g|m)", text)
    assert found, text
    return int(found[1]) * SIZES[found[2]]


def test_it_says_which_versions_it_needs() -> None:
    assert "start_interval" in REDIS["healthcheck"]
    assert "It needs Docker Compose 2.24 (" in (ROOT / "compose.yaml").read_text()


def test_a_workers_health_is_what_it_says_of_itself() -> None:
    check = WORKER["healthcheck"]
    image = (ROOT / "deploy" / "Containerfile").read_text()

    assert check["test"] == ["CMD", "/opt/puter/bin/python", "-m", "puter_client.cli", "worker", "--health"]
    assert "COPY puter_client " in image
    assert check["test"][1] in image
    assert parse_duration_s(check["timeout"]) < parse_duration_s(check["interval"])


def test_the_memory_of_redis_has_room_for_a_copy_while_its_file_is_rewritten() -> None:
    (limit,) = re.findall(r"^maxmemory (\S+)$", (ROOT / "deploy" / "redis.conf").read_text(), re.MULTILINE)

    assert size(REDIS["mem_limit"]) >= 2 * size(limit) + 256 * MB


@SERVICES
def test_no_service_can_take_the_hosts_memory(service: dict[str, Any]) -> None:
    assert size(service["mem_limit"]) <= 4 << 30


def test_nothing_in_compose_prolongs_the_drain() -> None:
    assert [entry for entry in WORKER["environment"] if entry.startswith("PUTER_")] == ["PUTER_POLICY"]


def test_aws_settings_are_passed_on_and_none_is_written_down() -> None:
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"} <= set(
        WORKER["environment"]
    )
    assert not [entry for entry in WORKER["environment"] if "=" in entry]


def test_profiles_can_be_read_and_not_written() -> None:
    mounts = {volume["target"]: volume for volume in WORKER["volumes"] if volume["type"] == "bind"}

    assert mounts.keys() == {"/home/puter/.aws", "/etc/puter/policy"}
    assert all(mount["read_only"] is True for mount in mounts.values())


def test_the_folder_of_the_policy_is_there_and_is_where_the_admin_command_sees_it() -> None:
    (policy,) = [volume for volume in WORKER["volumes"] if volume["target"] == "/etc/puter/policy"]
    (host,) = ADMIN["volumes"]

    assert (ROOT / policy["source"]).is_dir()
    assert policy["source"].replace(host["source"], host["target"]) == policy["target"]


def test_the_program_can_be_read_by_the_user_of_the_container() -> None:
    assert "chmod -R a+rX /opt/puter/app" in (ROOT / "deploy" / "Containerfile").read_text()


@SERVICES
def test_no_password_stands_in_a_command(service: dict[str, Any]) -> None:
    words = json.dumps([service.get("command"), service.get("entrypoint"), service.get("healthcheck")])

    assert not re.search(r"requirepass|masterauth|--pass\b|(?<!\w)-a\b|PASSWORD|REDISCLI_AUTH|://[^/]*@", words)


def test_redis_reads_its_users_from_the_folder_that_the_admin_command_writes() -> None:
    (users,) = [volume for volume in REDIS["volumes"] if isinstance(volume, dict)]
    (host,) = ADMIN["volumes"]

    # The folder: of a file alone, a container keeps the old one when another takes its place.
    assert (users["source"], users["read_only"]) == ("./deploy/acl", True)
    folder = HostFolder(Path(host["target"]))
    assert str(folder.acl.path) == f"{users['target']}/users.acl"
    assert str(folder.acl.path) in REDIS["command"]
    assert host["source"] == "./deploy"


def test_the_admin_command_begins_with_the_folder_that_is_mounted() -> None:
    (option,) = [option for option in user.commands["add"].params if option.name == "folder"]

    assert option.default == ADMIN["volumes"][0]["target"]
    assert ADMIN["entrypoint"][-2:] == ["puter_client.cli", "admin"]


def test_the_admin_command_does_not_run_by_itself() -> None:
    assert ADMIN["profiles"]
    assert ADMIN["restart"] == "no"


def test_services_find_redis_by_its_name() -> None:
    assert ADMIN["environment"] == {SERVICES_ADDRESS_VARIABLE: "redis:6379"}


def test_the_workers_url_comes_from_a_file_that_is_not_in_the_project() -> None:
    assert WORKER["env_file"] == [{"path": "deploy/worker.env", "required": False}]
    assert set((ROOT / "deploy" / ".gitignore").read_text().split()) >= {"acl/", "policy/*", "worker.env", "admin.env"}


def test_redis_is_reached_from_this_host_alone() -> None:
    assert [port.rpartition(":")[0].rpartition(":")[0] for port in REDIS["ports"]] == ["127.0.0.1"]
    assert "ports" not in WORKER


def test_a_redis_of_the_projects_settings_listens_on_loopback_alone() -> None:
    assert SETTINGS["bind"] == ["127.0.0.1", "-::1"]
    assert SETTINGS["protected-mode"] == ["yes"]


def test_in_its_container_it_is_reached_by_the_workers() -> None:
    command = REDIS["command"]
    at = command.index("--bind")

    assert command[at + 1 : at + 3] == ["*", "-::*"]
    assert at > command.index("/etc/puter/redis.conf"), "what comes later holds"


def test_redis_keeps_its_data_in_a_volume() -> None:
    (named,) = [volume for volume in REDIS["volumes"] if isinstance(volume, str)]
    volume, _, folder = named.partition(":")

    assert volume in COMPOSE["volumes"]
    assert REDIS["command"][-2:] == ["--dir", folder]


@SERVICES
def test_services_have_no_more_rights_than_they_need(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] not in ("", "0", "root")


@SERVICES
def test_services_come_back_and_their_logs_do_not_fill_the_disk(service: dict[str, Any]) -> None:
    assert service["restart"] == "unless-stopped" or "profiles" in service
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()


def test_redis_writes_before_it_answers_and_forgets_nothing() -> None:
    assert SETTINGS["appendonly"] == ["yes"]
    assert SETTINGS["appendfsync"] == ["always"]
    assert SETTINGS["maxmemory-policy"] == ["noeviction"]


def test_files_that_compose_names_are_in_the_project() -> None:
    named = [WORKER["build"]["dockerfile"], *(config["file"] for config in COMPOSE["configs"].values())]

    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_files_that_the_image_is_made_of_are_in_the_project_and_in_its_context() -> None:
    copied = re.findall(r"^COPY (?!--from)(\S+)", (ROOT / "deploy" / "Containerfile").read_text(), re.MULTILINE)
    context = (ROOT / "deploy" / "Containerfile.dockerignore").read_text().splitlines()

    assert copied
    assert [name for name in copied if not (ROOT / name).exists() or f"!{name}" not in context] == []


def test_what_a_worker_remembers_outlives_its_container() -> None:
    (volume,) = [volume for volume in WORKER["volumes"] if volume["type"] == "volume"]

    assert volume["source"] in COMPOSE["volumes"]
    assert f"PUTER_HOME={volume['target']} " in (ROOT / "deploy" / "Containerfile").read_text()


def test_the_image_runs_a_worker_as_nobody_in_particular() -> None:
    lines = (ROOT / "deploy" / "Containerfile").read_text().splitlines()

    assert lines[-1] == 'ENTRYPOINT ["/opt/puter/bin/python", "-m", "puter_worker"]'
    assert [line for line in lines if line.startswith("USER ")] == ["USER 65534:65534"]
