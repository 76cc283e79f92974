"""`puter admin user`: users of a shared host's Redis, on real servers with the settings of `deploy/`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import yaml
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from puter_client.acl import version
from puter_client.acl.acl_file import users
from puter_client.acl.changes import RulesFor
from puter_client.acl.rules import FIRST_LINES, Role
from puter_client.cli.admin_user import _tell_added
from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.phase import Phase
from puter_client.contract.spec import Spec
from puter_client.store import names
from puter_client.view import WaitFor
from tests.integration.cut_connections import cut_at, held_at
from tests.integration.redis_servers import server_binaries
from tests.integration.shared_host import ROOT, SharedHost, shared_host
from tests.integration.workshop import Workshop, spec

ROOT_LINE = "user ops on #" + "0" * 64 + " ~* &* +@all (~x* +get)"


@pytest.fixture(params=server_binaries())
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SharedHost]:
    """A host without users, whose server does not run yet, with each kind of server."""
    with shared_host(tmp_path, server_binaries()[request.param]) as made:
        yield made


@pytest.fixture
def running(host: SharedHost) -> SharedHost:
    """A host whose server runs, with the users `admin` and `worker`."""
    for role in ("--admin", "--worker"):
        assert host.run("add", role, *host.version).returncode == 0
    host.start()
    return host


def is_7_0(host: SharedHost) -> bool:
    """Whether its server needs the rules for Redis 7.0."""
    return host.version == ("--redis-version", "7.0")


@contextmanager
def begun(tmp_path: Path) -> Iterator[SharedHost]:
    """A host with the user `worker`, whose server does not run."""
    with shared_host(tmp_path, server_binaries()["valkey"]) as host:
        assert host.run("add", "--worker", *host.version).returncode == 0
        yield host


def added(host: SharedHost, *words: str) -> str:
    """The URL of a user who is added now."""
    ran = host.run("add", *words)
    assert ran.returncode == 0, ran.stderr
    return dict(line.split("=", 1) for line in ran.stdout.splitlines())["PUTER_REDIS_URL"]


def may_ping(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except AuthenticationError:
            return False


# -- the first users ---------------------------------------------------------------------------------------------------


async def test_users_that_are_added_before_redis_runs_can_sign_in_when_it_does(host: SharedHost) -> None:
    worker = host.run("add", "--worker", *host.version)
    betty = host.run("add", "betty", "--namespace", "team-a", *host.version)
    host.start()

    assert "when Redis has read" in worker.stderr
    url, namespace = (line.partition("=")[2] for line in betty.stdout.splitlines())
    async with PuterClient.connect(url, namespace=namespace) as puter:
        await puter.submit([MachineRequest("one", Spec())])
        assert await puter.recent() == []
        assert await puter.untaken() == 1
    with redis.Redis.from_url((host.folder.path / "worker.env").read_text().strip().partition("=")[2]) as client:
        assert client.smembers(names.READY) == {b"team-a:betty"}


def test_the_server_listens_on_loopback_alone(running: SharedHost) -> None:
    with running.admin() as admin:
        assert admin.config_get("bind") == {"bind": "127.0.0.1 -::1"}


def test_the_server_of_compose_listens_in_its_container(host: SharedHost) -> None:
    command = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["redis"]["command"]
    at = command.index("--bind")
    assert host.run("add", "--admin", *host.version).returncode == 0

    host.start(*command[at : at + 3])

    with host.admin() as admin:
        assert admin.config_get("bind") == {"bind": "* -::*"}


def test_nobody_signs_in_without_a_password(running: SharedHost) -> None:
    with redis.Redis.from_url(f"unix://{running.socket}") as nobody, pytest.raises(AuthenticationError):
        nobody.ping()


def test_passwords_are_in_no_file_that_others_can_read(host: SharedHost) -> None:
    users = (("--worker", *host.version), ("--admin",), ("--replica",), ("--sentinel",), ("betty",))
    shown = [host.run("add", *words) for words in users]

    passwords = [line.rpartition(" ")[2] for ran in shown[2:4] for line in ran.stdout.splitlines()[1:]]
    passwords += [shown[4].stdout.partition("betty:")[2].partition("@")[0]]
    for role in ("worker", "admin"):
        path = host.folder.path / f"{role}.env"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        passwords.append(path.read_text().partition(f"{role}:")[2].partition("@")[0])
    assert {len(password) for password in passwords} == {64}
    assert len(set(passwords)) == 5
    others = host.acl.read_text() + "".join(ran.stderr for ran in shown)
    assert [password for password in passwords if password in others] == []
    assert stat.S_IMODE(host.acl.stat().st_mode) == 0o644  # Redis runs as another user


@pytest.mark.parametrize(
    ("option", "settings", "told"),
    [
        ("--replica", ["masteruser replica", "masterauth "], "where Sentinels choose the primary, of each server"),
        (
            "--sentinel",
            ["sentinel auth-user mymaster sentinel", "sentinel auth-pass mymaster "],
            "of each Sentinel, below its `sentinel monitor mymaster …`",
        ),
    ],
)
def test_replicas_and_sentinels_are_told_by_their_settings(
    running: SharedHost, option: str, settings: list[str], told: str
) -> None:
    ran = running.run("add", option)
    password = ran.stdout.split()[-1]

    assert ran.returncode == 0
    assert ran.stdout == f"{settings[0]}\n{settings[1]}{password}\n"
    assert f"{told}. They are not shown again" in ran.stderr
    assert password not in ran.stderr
    with redis.Redis.from_url(f"unix://{option[2:]}:{password}@{running.socket}", lib_name=None) as client:
        assert client.ping()


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o022, 0o000])
def test_redis_can_read_its_users_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    with shared_host(tmp_path, server_binaries()["valkey"]) as host:
        ran = subprocess.run(
            host.command("add", "--worker"), env=host.environ(), capture_output=True, check=False, umask=umask
        )

        made = [host.folder.path, host.acl.parent, host.acl, host.folder.path / "worker.env"]
        assert ran.returncode == 0, ran.stderr
        assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o755, 0o755, 0o644, 0o600]


# -- without a restart -------------------------------------------------------------------------------------------------


def test_a_user_who_is_added_can_sign_in_at_once(running: SharedHost) -> None:
    ran = running.run("add", "betty")

    assert ran.returncode == 0
    assert "betty can sign in now" in ran.stderr
    assert may_ping(ran.stdout.strip().partition("=")[2])


def test_a_user_who_is_removed_is_out_at_once(running: SharedHost) -> None:
    betty, anna = added(running, "betty"), added(running, "anna")
    with redis.Redis.from_url(betty, single_connection_client=True) as open_before:
        open_before.ping()

        ran = running.run("remove", "betty")

        assert (ran.returncode, ran.stderr) == (0, "puter: betty is removed\n")
        with pytest.raises((RedisConnectionError, AuthenticationError)):
            open_before.ping()
    assert not may_ping(betty)
    assert may_ping(anna)
    assert "betty" not in running.acl.read_text()


def test_a_new_password_ends_the_old_one_and_its_connections(running: SharedHost) -> None:
    old = added(running, "betty", "--namespace", "team-a")
    rules = running.acl.read_text().splitlines()[-1].split()[4:]
    with redis.Redis.from_url(old, single_connection_client=True) as open_before:
        open_before.ping()

        new = added(running, "betty", "--new-password")

        with pytest.raises((RedisConnectionError, AuthenticationError)):
            open_before.ping()
    assert (may_ping(old), may_ping(new)) == (False, True)
    assert running.acl.read_text().splitlines()[-1].split()[4:] == rules


@pytest.mark.parametrize("role", ["worker", "admin"])
def test_so_does_a_services(running: SharedHost, role: str) -> None:
    file = running.folder.path / f"{role}.env"
    old = file.read_text().strip().partition("=")[2]
    with file.open("a") as more:
        more.write("PUTER_POLICY=/etc/puter/policy.toml\n")  # what somebody has added by hand

    ran = running.run("add", f"--{role}", "--new-password")

    assert ran.returncode == 0, ran.stderr
    url, kept = file.read_text().splitlines()
    assert (may_ping(old), may_ping(url.partition("=")[2])) == (False, True)
    assert kept == "PUTER_POLICY=/etc/puter/policy.toml"
    assert running.run("list").returncode == 0


async def test_workers_that_run_serve_who_is_added_and_go_on_when_others_are_removed(
    workshop: Workshop, running: SharedHost
) -> None:
    """Redis 7.0 ends the connections of all users with each change, the workers' and betty's too."""
    worker = (running.folder.path / "worker.env").read_text().strip().partition("=")[2]
    async with workshop.working(redis_url=worker):
        betty = (await running.add("betty")).url
        await running.add("anna")
        async with PuterClient.connect(betty, namespace="betty") as puter:
            for tag, change in (("one", None), ("two", running.remove)):
                batch = await puter.submit([MachineRequest(tag, spec())])
                if change is not None:
                    await change("anna")
                (view,) = await puter.wait(batch_id=batch, tags=[tag], wait=WaitFor.RUNNING, timeout_s=120)
                assert view.record
                assert (view.phase, view.record.owner) == (Phase.RUNNING, "betty")


def test_the_list_shows_who_is_where(running: SharedHost) -> None:
    added(running, "betty", "--namespace", "team-a")
    assert running.run("add", "vic", "--viewer", "--namespace", "team-a").returncode == 0
    with running.acl.open("a") as file:
        file.write("user later off\n")

    rows = [json.loads(line) for line in running.run("list", "--json").stdout.splitlines()]

    shown = {row["user"]: (row["role"], row["namespace"], row["enabled"], row["loaded"]) for row in rows}
    assert shown == {
        "admin": ("admin", None, True, True),
        "betty": ("client", "team-a", True, True),
        "default": (None, None, False, True),
        "health": (None, None, True, True),
        "later": (None, None, False, False),
        "vic": ("viewer", "team-a", True, True),
        "worker": ("worker", None, True, True),
    }
    assert "later    -       -          not in Redis yet: restart it" in running.run("list").stdout


def test_no_name_of_a_user_is_obeyed_by_a_terminal(running: SharedHost) -> None:
    with running.acl.open("a") as file:
        file.write("user \x1b[2J\x9b31mred on ~\xff\n")

    shown, as_json = running.run("list"), running.run("list", "--json")

    assert "red" in shown.stdout
    assert not {"\x1b", "\x9b"} & set(shown.stdout + as_json.stdout)
    assert "\x1b[2J\x9b31mred" in [json.loads(line)["user"] for line in as_json.stdout.splitlines()]


def test_many_adds_at_once_lose_nobody(running: SharedHost) -> None:
    crowd = [f"user-{number}" for number in range(6)]
    adds = [
        subprocess.Popen(running.command("add", name), env=running.environ(), stdout=subprocess.PIPE, text=True)
        for name in crowd
    ]
    urls = [add.communicate(timeout=60)[0].strip().partition("=")[2] for add in adds]

    assert [add.returncode for add in adds] == [0] * len(crowd)
    assert all(may_ping(url) for url in urls)
    assert {user.name for user in users(running.acl.read_text().splitlines())} >= set(crowd)


def test_lines_that_somebody_has_written_stay(running: SharedHost) -> None:
    lines = [*running.acl.read_text().splitlines(), "", ROOT_LINE, ""]
    running.acl.write_text("".join(f"{line}\n" for line in lines))

    added(running, "betty")
    assert running.run("remove", "betty").returncode == 0

    assert running.acl.read_text().splitlines() == lines
    with running.admin() as admin:
        assert "ops" in admin.acl_users()


def test_mode_and_link_of_the_file_stay(running: SharedHost) -> None:
    elsewhere = running.folder.path / "elsewhere.acl"
    running.acl.rename(elsewhere)
    link = running.folder.path / "acl" / "users.acl"
    link.symlink_to(elsewhere)
    elsewhere.chmod(0o640)

    added(running, "betty")

    assert link.is_symlink()
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o640


# -- what cannot be ----------------------------------------------------------------------------------------------------


def everything_in(folder: Path) -> dict[str, bytes]:
    """The files below a folder, and what is in them."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("user x on >hunter2 +nosuch", "line 5: Unknown command or category name in ACL"),
        ("user x on >hunter2 %%y", "line 5: Syntax error"),
        ("# hunter2", "line 5: should start with user keyword"),
        ("user x on >hunter2 (~y +get", "line 5 has a parenthesis without its other half"),
    ],
)
def test_a_line_that_redis_does_not_take_is_told_and_nothing_done(running: SharedHost, line: str, told: str) -> None:
    before = f"{running.acl.read_text()}{line}\n"
    running.acl.write_text(before)

    ran = running.run("add", "betty")

    assert ran.returncode in (1, 2)
    assert ran.stdout == ""
    (said,) = ran.stderr.splitlines()
    assert told in said
    assert "hunter2" not in said
    assert running.acl.read_text() == before
    with running.admin() as admin:
        assert "betty" not in admin.acl_users()


@pytest.mark.parametrize(
    "words",
    [
        ("add", "anna"),
        ("add", "--replica"),
        ("add", "betty", "--new-password"),
        ("add", "--worker", "--new-password"),
        ("add", "--admin", "--new-password"),
        ("remove", "betty"),
        ("remove", "worker", "--yes"),
        ("remove", "admin", "--yes"),
    ],
)
def test_a_redis_that_reads_another_file_is_told_and_nothing_done(
    running: SharedHost, tmp_path: Path, words: tuple[str, ...]
) -> None:
    added(running, "betty")
    other = tmp_path / "other"
    shutil.copytree(running.folder.path, other)
    before = everything_in(other)

    ran = subprocess.run(
        [*running.command(*words)[:-1], str(other)],
        env=running.environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"Redis reads its users from {running.acl}, and not from {other}/acl/users.acl" in ran.stderr
    assert everything_in(other) == before


@pytest.mark.parametrize("role", ["worker", "admin"])
def test_the_first_user_of_a_folder_that_redis_does_not_read_is_not_added(
    running: SharedHost, tmp_path: Path, role: str
) -> None:
    """With PUTER_ADMIN_REDIS_URL of another host."""
    url, _ = running.folder.admin_url({})
    assert url

    ran = subprocess.run(
        [*running.command("add", f"--{role}")[:-1], str(tmp_path / "other")],
        env=running.environ(PUTER_ADMIN_REDIS_URL=url), capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"Redis reads its users from {running.acl}, and not from {tmp_path}/other/acl/users.acl" in ran.stderr
    assert everything_in(tmp_path / "other") == {}


@pytest.mark.parametrize("reaches_redis", [True, False])
@pytest.mark.parametrize("words", [("add", "anna"), ("add", "betty", "--new-password"), ("remove", "betty")])
def test_what_is_not_known_because_the_connection_was_lost_is_told(
    running: SharedHost, tmp_path: Path, words: tuple[str, ...], *, reaches_redis: bool
) -> None:
    added(running, "betty")
    with cut_at(b"LOAD", running, tmp_path / "proxy", reaches_redis=reaches_redis) as url:
        ran = running.run(*words, PUTER_ADMIN_REDIS_URL=url)

    assert "whether Redis has read it is not known: Redis at unix://" in ran.stderr
    assert "`puter admin user list`" in ran.stderr
    if words[0] == "add":
        assert ran.returncode == 0
        assert may_ping(ran.stdout.strip().partition("=")[2]) is reaches_redis
        running.run("list")
    else:
        assert ran.returncode == 3
        assert "until it has, the user can sign in" in ran.stderr
    assert ("betty" in running.acl.read_text()) is (words[0] == "add")


@pytest.mark.parametrize(("words", "again"), [(("anna",), "anna"), (("--replica",), "--replica")])
@pytest.mark.parametrize("output", ["full", "gone"])
def test_a_password_that_could_not_be_shown_is_told(
    tmp_path: Path, words: tuple[str, ...], again: str, output: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with begun(tmp_path) as host, Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            host.command("add", *words), env=host.environ(), text=True, stderr=subprocess.PIPE, check=False,
            stdout=full if output == "full" else writer,
        )  # fmt: skip
        repeated = host.run("add", again, "--new-password")
    os.close(writer)

    assert (ran.returncode, len(ran.stderr.splitlines()), repeated.returncode) == (1, 1, 0)
    assert f": `puter admin user add {again} --new-password` makes another one" in ran.stderr


def test_a_service_whose_change_is_not_known_has_its_url(running: SharedHost, tmp_path: Path) -> None:
    with cut_at(b"LOAD", running, tmp_path / "proxy", reaches_redis=True) as url:
        ran = running.run("add", "--worker", "--new-password", PUTER_ADMIN_REDIS_URL=url)

    assert ran.returncode == 0
    assert may_ping((running.folder.path / "worker.env").read_text().strip().partition("=")[2])


@pytest.mark.parametrize("words", [("add", "anna"), ("remove", "betty")])
def test_a_connection_that_is_lost_once_is_made_anew(
    running: SharedHost, tmp_path: Path, words: tuple[str, ...]
) -> None:
    added(running, "betty")
    with cut_at(b"LOAD", running, tmp_path / "proxy", reaches_redis=False, times=1) as url:
        ran = running.run(*words, PUTER_ADMIN_REDIS_URL=url)

    assert (ran.returncode, "can sign in now" in ran.stderr or "is removed\n" in ran.stderr) == (0, True)


def test_who_interrupts_an_add_has_added_nobody(running: SharedHost, tmp_path: Path) -> None:
    before = everything_in(running.folder.path)
    with held_at(b"LOAD", running, tmp_path / "proxy") as (url, is_held):
        environ = running.environ(PUTER_ADMIN_REDIS_URL=url)
        add = subprocess.Popen(running.command("add", "betty"), env=environ, stdout=subprocess.PIPE)
        assert is_held.wait(60)
        add.send_signal(signal.SIGINT)
        told, _ = add.communicate(timeout=60)

    assert (add.returncode, told) == (130, b"")
    assert everything_in(running.folder.path) == before


def test_who_cannot_be_removed_from_a_redis_that_does_not_answer_is_told(running: SharedHost) -> None:
    added(running, "betty")
    running.stop()

    ran = running.run("remove", "betty")

    assert ran.returncode == 3
    assert "can still sign in: Redis has not read it" in ran.stderr
    assert "betty" not in running.acl.read_text()


def test_a_user_whose_name_has_requests_of_a_removed_one_waits_for_a_worker(running: SharedHost) -> None:
    with redis.Redis.from_url(added(running, "betty")) as betty:
        betty.rpush(names.inbox("betty:betty"), "{}")
    running.run("remove", "betty")

    ran = running.run("add", "betty")

    assert ran.returncode == 2
    assert "1 requests of a removed user betty are not refused yet" in ran.stderr
    assert running.run("add", "betty", "--namespace", "team-a").returncode == 0  # another inbox


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("add",), "no user: write its name"),
        (("add", "be:ty"), "use 1 to 64 letters"),
        (("add", "x" * 65), "use 1 to 64 letters"),
        (("add", "be ty"), "use 1 to 64 letters"),
        (("add", "Betty"), "write --namespace NAME"),
        (("add", "betty", "--namespace", "Team A"), "--namespace 'Team A': use 1 to 39"),
        (("add", "vic", "--viewer"), "--viewer: write --namespace NAME"),
        (("add", "worker"), "this name is Puter's own"),
        (("add", "default"), "this name is Puter's own"),
        (("add", "--worker", "--admin"), "a user has one of them"),
        (("add", "betty", "--worker"), "takes neither a name"),
        (("add", "betty", "--new-password"), "there is no user betty"),
        (("add", "betty", "--new-password", "--viewer"), "changes the password alone"),
        (("add", "betty", "--address", "redis://ann:secret@r"), "--address names a user"),
        (("add", "betty", "--address", "ftp://r"), "--address is not a Redis URL"),
        (("add", "betty", "--redis-version", "new"), "--redis-version 'new': write it like 7.0"),
        (("add", "betty", "--redis-version", "7"), "--redis-version '7': write it like 7.0"),
        (("add", "betty", "--redis-version", "6.2"), "Redis 6.2 is too old: Puter needs Redis 7.0 or newer"),
        (("add", "betty", "--redis-version", "6"), "Redis 6.0 is too old: Puter needs Redis 7.0 or newer"),
        (("remove", "betty"), "there is no user 'betty'"),
        (("remove", "replica", "--yes"), "there is no user 'replica'"),
        (("remove", "worker"), "all workers lose Redis, and no request is taken any more; if that shall be, add --yes"),
        (
            ("remove", "admin"),
            "no change of users takes effect any more until Redis is restarted; if that shall be, add",
        ),
        (("remove", "replica"), "no replica can follow this Redis any more; if that shall be, add --yes"),
        (("remove", "default"), "cannot be removed"),
        (("remove", "health"), "cannot be removed"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_done(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    with begun(tmp_path) as host:
        before = everything_in(host.folder.path)

        ran = host.run(*words)

        assert (ran.returncode, ran.stdout) == (2, "")
        (said,) = ran.stderr.splitlines()
        assert told in said
        assert "secret" not in said
        assert everything_in(host.folder.path) == before


@pytest.mark.parametrize("words", [("betty",), ("--worker",), ("--admin",), ("--replica",)])
def test_a_user_is_added_once(running: SharedHost, words: tuple[str, ...]) -> None:
    running.run("add", *words)
    before = everything_in(running.folder.path)

    ran = running.run("add", *words)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert "--new-password gives it another password" in ran.stderr
    assert everything_in(running.folder.path) == before


@pytest.mark.parametrize(
    "words",
    [("add", "betty"), ("add", "--replica"), ("add", "--worker", "--new-password"), ("remove", "betty"), ("list",)],
)
@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_that_is_no_hosts_is_told_and_not_made_one(
    tmp_path: Path, words: tuple[str, ...], *, exists: bool
) -> None:
    with shared_host(tmp_path, server_binaries()["valkey"]) as host:
        if exists:
            host.folder.path.mkdir()

        ran = host.run(*words)

        assert (ran.returncode, ran.stdout) == (2, "")
        told = f"'{host.folder.path}' is no host's folder, it has no acl/users.acl: begin with `puter admin user add "
        assert ran.stderr == f"puter: {told}--worker`, or check --folder and PUTER_HOST_FOLDER\n"
        assert (host.folder.path.exists(), everything_in(host.folder.path)) == (exists, {})


@pytest.mark.parametrize("words", [("add", "--worker"), ("add", "betty"), ("remove", "betty"), ("list",)])
def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    with shared_host(tmp_path, server_binaries()["valkey"]) as host:
        host.folder.path.write_text("a file")

        ran = host.run(*words)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert "--folder and PUTER_HOST_FOLDER name a folder" in ran.stderr


@pytest.mark.parametrize("is_new", [True, False])
def test_a_users_url_that_could_not_be_kept_is_told_before_anything_is_changed(tmp_path: Path, *, is_new: bool) -> None:
    with begun(tmp_path) as host:
        role = "admin" if is_new else "worker"
        (host.folder.path / f"{role}.env.new").mkdir()
        before = everything_in(host.folder.path)

        ran = host.run("add", f"--{role}", *([] if is_new else ["--new-password"]))

        assert (ran.returncode, ran.stdout) == (2, "")
        assert f"{role}.env' cannot be written" in ran.stderr
        assert everything_in(host.folder.path) == before


def test_the_file_is_listed_where_the_url_of_admin_cannot_be_read(running: SharedHost) -> None:
    env = running.folder.path / "admin.env"
    env.unlink()
    env.mkdir()

    ran = running.run("list")

    assert ran.returncode == 0
    assert "worker" in ran.stdout
    assert f"Redis was not asked which users it has: '{env}' cannot be read (Is a directory)" in ran.stderr


# -- users of services -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["worker", "admin"])
def test_a_service_that_is_removed_is_out_and_its_url_is_forgotten(running: SharedHost, role: str) -> None:
    file = running.folder.path / f"{role}.env"
    url = file.read_text().strip().partition("=")[2]
    with file.open("a") as more:
        more.write("PUTER_POLICY=/etc/puter/policy.toml\n")

    ran = running.run("remove", role, "--yes")

    assert (ran.returncode, ran.stderr) == (0, f"puter: {role} is removed\n")
    assert not may_ping(url)
    assert file.read_text() == "PUTER_POLICY=/etc/puter/policy.toml\n"


def test_the_url_of_a_service_that_can_still_sign_in_is_kept(running: SharedHost) -> None:
    before = (running.folder.path / "admin.env").read_text()
    running.stop()

    ran = running.run("remove", "admin", "--yes")

    assert ran.returncode == 3
    assert (running.folder.path / "admin.env").read_text() == before


# -- a Redis that has not read the file --------------------------------------------------------------------------------


def test_a_redis_that_has_not_read_the_file_is_told(host: SharedHost) -> None:
    for role in ("--admin", "--worker"):
        assert host.run("add", role, *host.version).returncode == 0
    host.start(own_users=False)

    ran, seen = host.run("add", "betty"), host.run("list")

    why = f"has not read {host.acl}: set aclfile in its configuration to that file, and restart it"
    assert ran.returncode == seen.returncode == 0
    assert f"puter: Redis was not told: Redis at unix://{host.socket} {why}\n" in ran.stderr
    assert f"puter: Redis was not asked which users it has: Redis at unix://{host.socket} {why}\n" in seen.stderr
    assert "%2F" not in ran.stderr + seen.stderr


@pytest.mark.parametrize("is_there", [True, False])
def test_a_url_of_admin_that_is_old_is_told(running: SharedHost, *, is_there: bool) -> None:
    env = running.folder.path / "admin.env"
    old = env.read_text()
    assert running.run("add", "--admin", "--new-password").returncode == 0
    if not is_there:
        assert running.run("remove", "admin", "--yes").returncode == 0
    env.write_text(old)

    ran = running.run("list")

    assert (
        f"refuses the user admin of {env}, who {'has another password' if is_there else 'is not there'}" in ran.stderr
    )
    assert f"`puter admin user add --admin{' --new-password' if is_there else ''}`" in ran.stderr
    assert "%2F" not in ran.stderr


def test_the_url_of_another_user_is_told(running: SharedHost) -> None:
    betty = added(running, "betty")

    ran = running.run("list", PUTER_ADMIN_REDIS_URL=betty)

    assert "to the user of PUTER_ADMIN_REDIS_URL: it must name the user admin" in ran.stderr


# -- versions ----------------------------------------------------------------------------------------------------------


def test_the_rules_are_those_of_the_redis_that_runs(running: SharedHost) -> None:
    added(running, "betty")  # Redis 7.0 would refuse the rules of a newer one

    old = is_7_0(running)
    assert ("+waitaof" in running.acl.read_text(), "+client|setinfo" in running.acl.read_text()) == (not old, not old)


def test_a_redis_that_runs_without_users_is_asked_too(host: SharedHost) -> None:
    host.acl.parent.mkdir(parents=True)
    host.acl.write_text("")
    host.start()  # as a package installs it: everybody is the user default

    ran = host.run("add", "--worker")

    assert ran.returncode == 0, ran.stderr
    assert ("+waitaof" in host.acl.read_text()) is not is_7_0(host)


@pytest.mark.parametrize(("number", "old"), [("7.0", True), ("7.0.15", True), ("7.2", False), ("8.1.3", False)])
def test_without_a_redis_the_version_is_said_once(tmp_path: Path, number: str, *, old: bool) -> None:
    with shared_host(tmp_path, server_binaries()["valkey"]) as host:
        first = host.run("add", "--worker", "--redis-version", number)
        second = host.run("add", "betty")

        assert "+waitaof" not in host.acl.read_text() if old else "+waitaof" in host.acl.read_text()
        assert ("+client|setinfo" in host.acl.read_text()) is not old
    assert "Redis 7.0" not in first.stderr + second.stderr


@pytest.mark.parametrize("kind", server_binaries())
async def test_without_a_redis_that_runs_the_rules_are_those_of_the_one_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """It starts with them."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / f"{kind}-server").symlink_to(server_binaries()[kind])
    monkeypatch.setattr(version, "_USUAL_PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with shared_host(tmp_path, server_binaries()[kind]) as host:
        worker = await host.add("worker", Role.WORKER, says_version=False)
        admin = await host.add("admin", Role.ADMIN, says_version=False)
        _tell_added(worker, host.folder)
        host.start()

        assert (worker.rules_for, admin.rules_for) == (RulesFor.INSTALLED, RulesFor.KNOWN)
        assert f"its rules are for {kind.capitalize()} " in capsys.readouterr().err
        assert host.run("list").stderr == ""


async def test_where_none_is_installed_either_it_is_told_for_which_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(version, "_USUAL_PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with shared_host(tmp_path, server_binaries()["valkey"]) as host:
        _tell_added(await host.add("worker", Role.WORKER, says_version=False), host.folder)

    said = "its rules are for Valkey, and for Redis 7.2 or newer: Redis 7.0 needs them with --redis-version 7.0"
    assert said in capsys.readouterr().err


def test_the_first_commands_say_what_is_next(host: SharedHost) -> None:
    worker = host.run("add", "--worker", *host.version)
    admin = host.run("add", "--admin")
    betty = host.run("add", "betty")

    assert f"puter: worker can sign in when Redis has read {host.acl}\n" in worker.stderr
    assert "puter: next: `puter admin user add --admin`" in worker.stderr
    assert admin.stderr.splitlines()[1:] == [
        f"puter: next: start Redis, or restart it, so that it reads {host.acl}; it is told of later changes"
    ]
    assert "Redis was not told: Redis at unix://" in betty.stderr


def test_every_file_begins_with_who_has_no_password(running: SharedHost) -> None:
    host = running

    assert host.acl.read_text().splitlines()[:2] == list(FIRST_LINES)
