"""What the scripts of user data do on a machine: it ends itself whatever fails, and runs its workload once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puter_client.contract.key import PuterKey
from puter_client.contract.os_image import Os
from puter_worker.ec2.userdata import Boot, Machine, compose
from tests.integration.engine_world import wait_for
from tests.integration.standin_machine import FIRST_BOOT, INSTALLS, StandIn, parts_of, setting

TTL_S = 3_600
DEADLINE = FIRST_BOOT + TTL_S
NEXT_MINUTE = -(-DEADLINE // 60) * 60


def user_data(
    os: Os = Os.AL2023,
    ttl_s: int | None = TTL_S,
    run: str | None = None,
    env: dict[str, str] | None = None,
    own: str | None = None,
    user: str | None = None,
) -> bytes:
    machine = Machine(key=PuterKey("alice", "sweep-17"), generation=3, run=run, env=env or {}, user_data=own)
    boot = Boot(ttl_s=ttl_s, nonce="0" * 16, expires_at="never", user=user or os.ssh_user)
    return compose(boot, [machine])


BY_AT = ("at", NEXT_MINUTE)
BY_TIMER = ("timer", DEADLINE)


def assert_ends_once_by(host: StandIn, expected: tuple[str, int]) -> None:
    assert [handle[:2] for handle in host.handles] == [expected]
    assert host.ends_by(host.handles[0])


@pytest.fixture(params=[Os.AL2023, Os.AL2, Os.DEBIAN_12])
def os_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Os:
    """The system of the test's machines: of each way to install packages one."""
    monkeypatch.setattr(StandIn, "system", request.param)
    return Os(request.param)


def test_when_all_goes_well_at_is_the_one_handle(tmp_path: Path, os_name: Os) -> None:
    assert_ends_once_by(StandIn(tmp_path, user_data(os_name)).boot(), BY_AT)


def test_before_any_script_has_run_the_timer_holds(tmp_path: Path, os_name: Os) -> None:
    host = StandIn(tmp_path, user_data(os_name)).boot(as_far_as_scripts=False)

    assert_ends_once_by(host, BY_TIMER)


@pytest.mark.parametrize("what", ["install-at", "enable-atd", "start-atd", "at"])
def test_where_at_fails_the_timer_stays(tmp_path: Path, os_name: Os, what: str) -> None:
    assert_ends_once_by(StandIn(tmp_path, user_data(os_name)).broken(what).boot(), BY_TIMER)


@pytest.mark.parametrize("what", ["install-docker", "enable-docker", "start-docker"])
def test_where_docker_fails_the_machine_ends_all_the_same(tmp_path: Path, os_name: Os, what: str) -> None:
    assert_ends_once_by(StandIn(tmp_path, user_data(os_name, run="true")).broken(what).boot(), BY_AT)


def test_where_all_installing_fails_the_machine_ends_all_the_same(tmp_path: Path, os_name: Os) -> None:
    host = StandIn(tmp_path, user_data(os_name, run="true")).broken("install-at", "install-docker").boot()

    assert_ends_once_by(host, BY_TIMER)


def test_where_the_users_part_fails_the_machine_ends_all_the_same(tmp_path: Path, os_name: Os) -> None:
    host = StandIn(tmp_path, user_data(os_name, own="#!/bin/sh\necho own >>$MACHINE/calls\nexit 1\n")).boot()

    assert "own" in host.calls
    assert_ends_once_by(host, BY_AT)


@pytest.mark.parametrize("unit", ["puter-deadline.timer", "puter-deadline.service"])
def test_the_deadline_does_not_wait_for_a_boot_that_the_users_part_holds_up(tmp_path: Path, unit: str) -> None:
    # cloud-init runs boothooks before sysinit.target on Debian and Ubuntu; units wait for that target by default.
    host = StandIn(tmp_path, user_data()).boot(as_far_as_scripts=False)

    assert setting((host.root / "etc/systemd/system" / unit).read_text(), "DefaultDependencies") == "no"


def test_where_systemd_takes_no_timer_a_shutdown_is_scheduled(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data()).broken("enable-puter-deadline.timer").boot()

    assert (host.shutdowns, host.handles) == (["shutdown -h +60"], [])


def test_a_reboot_changes_neither_deadline_nor_handle(tmp_path: Path, os_name: Os) -> None:
    assert_ends_once_by(StandIn(tmp_path, user_data(os_name)).boot().boot(FIRST_BOOT + 600), BY_AT)


def test_a_reboot_without_at_arms_the_same_timer_again(tmp_path: Path, os_name: Os) -> None:
    host = StandIn(tmp_path, user_data(os_name)).broken("install-at").boot().boot(FIRST_BOOT + 600)

    assert_ends_once_by(host, BY_TIMER)


def test_scripts_that_run_twice_schedule_one_job(tmp_path: Path, os_name: Os) -> None:
    host = StandIn(tmp_path, user_data(os_name)).boot()

    host.run_scripts()

    assert_ends_once_by(host, BY_AT)


def test_scripts_that_run_twice_schedule_one_job_though_the_timer_is_still_there(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data()).broken("disable-puter-deadline.timer", "stop-puter-deadline.timer").boot()

    host.run_scripts()

    assert [handle[:2] for handle in host.handles] == [BY_TIMER, BY_AT]


def test_an_atd_that_was_disabled_is_enabled_again_while_the_job_is_there(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data()).boot()
    (host.machine / "enabled/atd").unlink()

    assert_ends_once_by(host.boot(FIRST_BOOT + 600), BY_AT)


def test_a_cancelled_job_leaves_nothing_that_ends_the_machine(tmp_path: Path) -> None:
    assert StandIn(tmp_path, user_data()).boot().cancel().handles == []


@pytest.mark.parametrize("how", ["at", "timer"])
def test_a_deadline_that_the_agent_moves_has_one_handle_and_costs_no_state(tmp_path: Path, how: str) -> None:
    host = StandIn(tmp_path, user_data(run="true"))
    host = (host if how == "at" else host.broken("install-at")).boot()
    later = NEXT_MINUTE + 7_200
    (host.state / "deadline").write_text(f"{later}\n")

    # As the agent runs it: cloud-init's INSTANCE_ID is not there.
    moved = host.run(f"{host.root}/usr/local/sbin/puter-deadline", "move")

    assert moved.returncode == 0
    assert_ends_once_by(host, (how, later))
    assert host.exit_code == "0"


def test_a_deadline_that_is_moved_to_never_leaves_nothing_that_ends_the_machine(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data()).boot()
    (host.state / "deadline").write_text("never\n")

    host.run(f"{host.root}/usr/local/sbin/puter-deadline", "move")

    assert host.handles == []
    assert host.boot(DEADLINE + 600).handles == []
    assert host.shutdowns == []


@pytest.mark.parametrize("at", [FIRST_BOOT + 600, DEADLINE + 600])
def test_a_reboot_after_cancelling_arms_nothing(tmp_path: Path, os_name: Os, at: int) -> None:
    host = StandIn(tmp_path, user_data(os_name)).boot().cancel().boot(at)

    assert (host.handles, host.shutdowns) == ([], [])


def test_scripts_run_again_after_cancelling_arm_nothing(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data()).boot().cancel()

    host.run_scripts()

    assert host.handles == []


@pytest.mark.parametrize("what", [(), ("install-at",)], ids=["at", "timer"])
def test_a_boot_after_the_deadline_ends_the_machine_right_away(
    tmp_path: Path, os_name: Os, what: tuple[str, ...]
) -> None:
    host = StandIn(tmp_path, user_data(os_name)).broken(*what).boot().boot(DEADLINE)

    assert host.shutdowns == ["shutdown -h now"]


def test_when_at_has_gone_the_next_boot_arms_the_timer(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data()).boot().uninstall_at().boot(FIRST_BOOT + 600)

    assert_ends_once_by(host, BY_TIMER)


def test_a_lost_hand_over_is_made_good_at_the_next_boot(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data()).broken("disable-puter-deadline.timer", "stop-puter-deadline.timer").boot()

    assert_ends_once_by(host.repaired().boot(FIRST_BOOT + 600), BY_AT)


def test_a_deadline_that_was_not_written_whole_is_set_anew(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data()).broken("install-at").boot()
    (host.state / "deadline").write_text("")

    assert_ends_once_by(host.boot(FIRST_BOOT + 600), ("timer", DEADLINE + 600))


def test_without_a_ttl_nothing_ends_the_machine(tmp_path: Path, os_name: Os) -> None:
    host = StandIn(tmp_path, user_data(os_name, ttl_s=None)).boot().boot(DEADLINE + 600)

    assert (host.handles, host.shutdowns) == ([], [])


@pytest.mark.parametrize(("what", "expected"), [((), "at"), (("install-at",), "timer")])
def test_an_image_of_a_disk_brings_no_deadline_along(tmp_path: Path, what: tuple[str, ...], expected: str) -> None:
    host = StandIn(tmp_path, user_data()).broken(*what).boot()

    host.launch(user_data(), "i-2")
    host.boot(DEADLINE + 30)

    assert host.shutdowns == []
    assert [(handle.kind, handle.at - DEADLINE - 30 >= TTL_S) for handle in host.handles] == [(expected, True)]


@pytest.mark.parametrize("what", [(), ("install-at",)], ids=["at", "timer"])
def test_an_image_of_a_disk_does_not_end_a_machine_without_ttl(tmp_path: Path, what: tuple[str, ...]) -> None:
    host = StandIn(tmp_path, user_data()).broken(*what).boot()

    host.launch(user_data(ttl_s=None), "i-2")

    assert host.boot(FIRST_BOOT + 600).handles == []


def test_the_deadline_is_roots_alone(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data()).boot()

    assert (host.state / "deadline").stat().st_mode & 0o777 == 0o600


def installs(host: StandIn) -> list[str]:
    """The calls that install or update something, without those of commands that run them."""
    return [call for call in host.calls if call.split()[0] in INSTALLS[Os.AL2] + INSTALLS[Os.AL2023] + ("apt-get",)]


APT = "apt-get -q -o DPkg::Lock::Timeout=300"
GET = f"{APT} install -y --no-install-recommends"


@pytest.mark.parametrize(
    ("os", "commands"),
    [
        (Os.AL2023, ["dnf install -y at", "dnf install -y docker"]),
        (Os.AL2, ["yum install -y at", "amazon-linux-extras install -y docker"]),
        (Os.AL2023_GPU, ["dnf install -y at"]),
        *[
            (os, [f"{GET} at", f"{APT} update", f"{GET} at", f"{GET} docker.io"])
            for os in (Os.UBUNTU_24_04, Os.UBUNTU_22_04, Os.DEBIAN_12)
        ],
    ],
)
def test_software_comes_from_the_systems_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, os: Os, commands: list[str]
) -> None:
    monkeypatch.setattr(StandIn, "system", os)
    host = StandIn(tmp_path, user_data(os)).boot()

    assert installs(host) == commands
    assert {"atd", "docker"} <= host.enabled & host.active


def test_where_dockers_client_is_a_package_of_its_own_it_is_installed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn, "system", Os.DEBIAN_12)
    host = StandIn(tmp_path, user_data(Os.DEBIAN_12, run="true"))
    (host.machine / "client-apart").touch()
    host.boot()

    assert installs(host)[-2:] == [f"{GET} docker.io", f"{GET} docker-cli"]
    assert host.exit_code == "0"


LOCKS = ["/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"]


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_of_apt_that_its_option_does_not_wait_for_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    monkeypatch.setattr(StandIn, "system", Os.DEBIAN_12)
    host = StandIn(tmp_path, user_data(Os.DEBIAN_12)).locked(*[lock] * 12).boot()

    assert_ends_once_by(host, BY_AT)
    assert "docker" in host.active
    assert host.calls.count("sleep 10") == 12


@pytest.mark.parametrize("lock", [*LOCKS, "/var/lib/dpkg/lock-frontend"])
def test_a_lock_of_apt_that_is_never_released_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    monkeypatch.setattr(StandIn, "system", Os.DEBIAN_12)
    host = StandIn(tmp_path, user_data(Os.DEBIAN_12, run="true")).locked(*[lock] * 1_000).boot()

    assert_ends_once_by(host, BY_TIMER)
    assert host.exit_code == "69"
    assert host.calls.count("sleep 10") < 100


def test_a_system_without_a_package_manager_says_so(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data(run="true"))
    for name in INSTALLS[Os.AL2023]:
        (host.machine / "bin" / name).unlink()
    told = host.run(str(host.scripts["000-puter-2-docker"]))
    host.boot()

    assert "cannot install docker: this system has neither apt-get nor dnf nor yum" in told.stdout
    assert host.exit_code == "69"
    assert_ends_once_by(host, BY_TIMER)


@pytest.mark.parametrize("user", ["ec2-user", "admin"])
def test_docker_runs_now_and_after_a_reboot_for_the_user_too(tmp_path: Path, os_name: Os, user: str) -> None:
    host = StandIn(tmp_path, user_data(os_name, user=user)).boot()

    assert "docker" in host.enabled & host.active
    assert f"usermod -aG docker {user}" in host.calls


def test_a_workload_prints_into_its_log(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data(run="echo out; echo err >&2")).boot()

    assert (host.root / "var/log/puter/workload.log").read_text() == "out\nerr\n"


@pytest.mark.parametrize(("user", "home"), [("ec2-user", "home/ec2-user"), ("ubuntu", "home/ubuntu"), ("root", "root")])
def test_a_workload_runs_as_the_images_user_in_its_home(tmp_path: Path, user: str, home: str) -> None:
    host = StandIn(tmp_path, user_data(run='echo "$HOME $USER $PWD"', user=user)).boot()

    assert (
        f"setpriv --reuid 1000 --regid 1000 --init-groups -- {host.root}/usr/local/sbin/puter-agent task" in host.calls
    )
    assert f"id -u {user}" in host.calls
    assert (host.root / "var/log/puter/workload.log").read_text() == f"{host.root / home} {user} {host.root / home}\n"


def test_boot_does_not_wait_for_the_agent(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data(run="true")).boot()

    assert "systemctl --no-block restart puter-agent.service" in host.calls
    assert {"puter-agent.service"} <= host.enabled


def test_without_docker_the_workload_does_not_run_and_says_so(tmp_path: Path, os_name: Os) -> None:
    host = StandIn(tmp_path, user_data(os_name, run="echo ran >>$MACHINE/calls")).broken("install-docker").boot()

    assert "ran" not in host.calls
    assert host.exit_code == "69"
    assert "did not run: Docker is not up" in host.console


def test_a_workload_runs_once(tmp_path: Path, os_name: Os) -> None:
    host = StandIn(tmp_path, user_data(os_name, run="echo ran >>$MACHINE/calls")).boot().boot(FIRST_BOOT + 600)

    host.run_scripts()
    host.run_workload()

    assert host.calls.count("ran") == 1


def test_a_workload_runs_on_an_image_of_a_disk_on_which_it_has_run(tmp_path: Path) -> None:
    data = user_data(run="echo ran >>$MACHINE/calls")
    host = StandIn(tmp_path, data).boot()

    host.launch(data, "i-2")
    host.boot(FIRST_BOOT + 600)

    assert host.calls.count("ran") == 2


def test_an_image_of_a_disk_does_not_say_which_member_of_its_launch_a_machine_is(tmp_path: Path) -> None:
    boot = Boot(ttl_s=None, nonce="0" * 16, expires_at="never", user="ec2-user")
    of_spot = [Machine(key=PuterKey("alice", f"job-{n}"), generation=1, run="true", env={}, user_data=None)
               for n in range(3)]  # fmt: skip
    host = StandIn(tmp_path, compose(boot, of_spot, by_tag=True)).boot()
    assert (host.state / "members").exists()
    (host.state / "member").write_text("2\n")  # the agent keeps what its tag said

    host.launch(user_data(), "i-2")
    host.boot(FIRST_BOOT + 600)

    assert list(host.state.glob("member*")) == []


def test_run_and_env_are_readable_by_their_user_alone(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data(run="true", env={"A": "1"})).boot()

    assert [(host.state / name).stat().st_mode & 0o777 for name in ("workload.run", "workload.env")] == [0o600] * 2


def test_env_reaches_the_workload_unexpanded(tmp_path: Path) -> None:
    env = {"A": "$(exit 9) `exit 9` $HOME \\ \" ' \n\t* ü", "EMPTY": "", "PATH_": "x;y&&z|w"}
    host = StandIn(tmp_path, user_data(run='env -0 >"$HOME/env"', env=env)).boot()

    seen = dict(pair.split("=", 1) for pair in (host.root / "home/ec2-user/env").read_text().split("\0")[:-1])
    assert {name: seen.get(name) for name in env} == env


def test_a_variable_that_bash_keeps_for_itself_does_not_stop_the_workload(tmp_path: Path) -> None:
    host = StandIn(tmp_path, user_data(run='[ "$Z" = 1 ]', env={"EUID": "7", "IFS": "=", "Z": "1"})).boot()

    assert host.exit_code == "0"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_any_text_arrives_as_it_was_written(tmp_path: Path, run: str) -> None:
    state = tmp_path / "var/lib/puter"
    state.mkdir(parents=True, exist_ok=True)
    script = tmp_path / "task"
    script.write_bytes(parts_of(user_data(run=run, env={"A": run}))[-1][2])

    (state / "workload.conf").unlink(missing_ok=True)

    subprocess.run(["sh", script], env={"PUTER_ROOT": str(tmp_path)}, capture_output=True, check=False)

    assert (state / "workload.run").read_bytes() == run.encode()
    assert (state / "workload.env").read_bytes() == f"A={run}\0".encode()


def test_a_shutdown_amid_the_workload_is_recorded(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    host = StandIn(tmp_path, user_data(run=f"echo up >>$MACHINE/calls; exec {sleep} 600"))
    host.boot(as_far_as_scripts=False)
    host.run_scripts()

    unit = subprocess.Popen(host.workload_command(), env=host.env, start_new_session=True)
    try:
        wait_for(lambda: "up" in host.calls, "the workload to run")
        os.killpg(unit.pid, signal.SIGTERM)  # systemd signals every process of a unit
        unit.wait()
    finally:
        if unit.poll() is None:
            os.killpg(unit.pid, signal.SIGKILL)
            unit.wait()

    assert host.exit_code == "143"


def shellcheck(*arguments: str | Path) -> str:
    command = [Path(sys.executable).with_name("shellcheck"), "--norc", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode in (0, 1), found.stderr  # 1: it has found something
    return found.stdout


@pytest.mark.parametrize("ttl_s", [TTL_S, None])
def test_shellcheck_finds_nothing(tmp_path: Path, os_name: Os, ttl_s: int | None) -> None:
    host = StandIn(tmp_path, user_data(os_name, ttl_s, run="make all", env={"A": "1"}))

    assert shellcheck(host.boothook, *host.scripts.values()) == ""


def test_shellcheck_finds_no_mistake_in_scripts_that_carry_odd_texts(tmp_path: Path) -> None:
    odd = "it's $HOME `x` \\ \" \n!"
    host = StandIn(tmp_path, user_data(run=odd, env={"A": odd, "B": ""}))

    assert shellcheck("--severity=warning", *host.scripts.values()) == ""
