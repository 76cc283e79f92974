"""`puter up` and `puter submit` with the local engine, its real worker and a simulated EC2."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from redis import Redis

from tests.acceptance.cli_world import PUTER, CliWorld
from tests.integration.engine_world import kill, wait_for


class TestUp:
    def test_a_machine_is_ready_to_paste(self, betty: CliWorld) -> None:
        ran = betty.puter("--tag", "paste")
        (record,) = betty.puter("status", "paste", "--json").objects()
        assert ran.code == 0
        *facts, ssh, rsync = ran.out.splitlines()
        assert facts[0] == "tag       betty/paste (created)"
        assert record["instance_id"] in facts[1]
        key = betty.home / "private_keys" / "puter-v1.pem"
        assert ssh == f"ssh -i {key} ec2-user@{record['public_dns_name']}"
        assert rsync == f'rsync -Paq --exclude .git -e "ssh -i {key}" ./ ec2-user@{record["public_dns_name"]}:~/'

    def test_requested_again_it_is_the_same(self, betty: CliWorld) -> None:
        first = betty.up("again")
        ran = betty.puter("up", "again")
        assert "found: the same instance as before" in ran.out
        assert first["instance_id"] in ran.out

    def test_a_machine_that_somebody_has_terminated_is_not_found(self, betty: CliWorld) -> None:
        first = betty.up("dead")
        betty.ec2().terminate_instances(InstanceIds=[first["instance_id"]])
        second = betty.up("dead")
        assert (second["outcome"], second["generation"], second["phase"]) == ("created", 2, "running")
        assert second["instance_id"] != first["instance_id"]

    def test_options_that_a_machine_which_exists_has_otherwise_are_named(self, betty: CliWorld) -> None:
        betty.up("settled")
        ran = betty.puter("up", "settled", "--disk", "500", "--no-docker")
        told = betty.puter("up", "settled", "--disk", "500", "--json")
        same = betty.puter("up", "settled", "--ttl", "60m")
        assert (ran.code, "the same instance as before" in ran.out) == (0, True)
        assert "note: settled existed already; not applied: --disk, --docker (" in ran.err
        assert (told.objects()[0]["not_applied"], told.objects()[0]["applied"]) == (["disk"], [])
        assert "not applied" not in same.err

    def test_a_batch_names_what_it_writes_and_what_a_machine_has_otherwise(
        self, betty: CliWorld, tmp_path: Path
    ) -> None:
        """What it writes may be the default's value: it was asked for. What config.toml says was not."""
        betty.up("written-out", "--no-docker")
        batch = tmp_path / "batch.yaml"
        batch.write_text("defaults: {docker: true}\nputers: [{tag: written-out}]\n")
        silent = tmp_path / "silent.yaml"
        silent.write_text("puters: [{tag: written-out}]\n")
        config = betty.home / "config.toml"
        config.write_text("[defaults]\ndocker = true\n")

        told = betty.puter("submit", str(batch), "--wait", "running", "--json")
        none = betty.puter("submit", str(silent), "--wait", "running", "--json")
        config.unlink()

        assert told.objects()[-1]["not_applied"] == ["docker"]
        assert none.objects()[-1]["not_applied"] == []

    def test_another_machine_under_its_tag_is_a_conflict(self, betty: CliWorld) -> None:
        betty.up("taken")
        ran = betty.puter("up", "taken", "--instance-type", "c7i.large")
        assert ran.code == 1
        assert ran.err.startswith("puter: taken: conflict: ")
        assert "instance-type" in ran.err
        assert ran.out == ""

    def test_what_ec2_refuses_is_told_in_its_words(self, betty: CliWorld) -> None:
        ran = betty.puter("up", "refused", "--subnet", "subnet-00000000")
        assert ran.code == 1
        assert "refused: InvalidSubnetID.NotFound: " in ran.err

    def test_json_is_one_object_with_all_fields(self, betty: CliWorld) -> None:
        told = betty.up("object")
        assert told["outcome"] in ("created", "existing")
        assert told["phase"] == "running"
        assert told["expires_at"].endswith("+00:00")

    def test_the_first_command_starts_the_engine_and_a_later_one_says_nothing(self, fresh: CliWorld) -> None:
        first, later = fresh.puter("local", "start"), fresh.puter("status")
        assert first.err.startswith("puter: starting ")
        assert (later.code, later.err, later.out) == (
            0,
            "",
            "nothing in namespace betty; start with: puter up --tag NAME\n",
        )

    def test_the_worker_makes_a_key_where_ssh_keygen_is_missing(self, fresh: CliWorld, tmp_path: Path) -> None:
        told = fresh.puter("up", "keyless", "--json", PATH=str(tmp_path)).objects()[0]
        path = Path(told["private_key_path"])
        assert path.parent == fresh.home / "private_keys"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    @pytest.mark.parametrize("made_by", ["ssh-keygen", "EC2"])
    def test_the_private_half_of_a_key_is_in_its_file_alone(
        self, fresh: CliWorld, tmp_path: Path, made_by: str
    ) -> None:
        path = {} if made_by == "ssh-keygen" else {"PATH": str(tmp_path)}
        told = fresh.puter("up", "secretive", "--json", **path)
        ssh = fresh.puter("why", "secretive", "--log", **path)
        (pem,) = (fresh.home / "private_keys").glob("*.pem")
        secret = pem.read_text().splitlines()[2].encode()
        written = {file: file.read_bytes() for file in fresh.home.rglob("*") if file.is_file()}

        assert [file for file, content in written.items() if secret in content] == [pem]
        assert secret.decode() not in told.out + told.err + ssh.out + ssh.err
        # Where it is looked for is where it would be: what Redis holds, and the logs.
        kept = {file.parent.name for file, content in written.items() if b"secretive" in content}
        assert {"appendonlydir", "logs"} <= kept


class TestSubmit:
    def test_a_wait_outlives_its_worker(self, fresh: CliWorld) -> None:
        fresh.puter("local", "start")
        _, worker = fresh.processes()
        os.kill(worker, signal.SIGSTOP)  # it takes nothing before it is killed
        with subprocess.Popen(
            [*PUTER, "submit", "--tag", "q-{i}", "--count", "5", "--wait", "launched"],
            env=fresh.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as waiting:
            url = f"unix://{fresh.paths.socket}"
            with Redis.from_url(url) as redis:
                wait_for(lambda: redis.llen("puter:_in:betty") == 5, "the requests")
            kill(worker, signal.SIGKILL)
            out, err = waiting.communicate(timeout=60)
        assert (waiting.returncode, "5 puters: 5 created" in out) == (0, True)
        assert "puter: the engine's worker has died: starting another one …" in err.splitlines()

    def test_a_batch_is_told_and_how_to_follow_it(self, betty: CliWorld) -> None:
        ran = betty.puter("submit", "--tag", "told-{i}", "--count", "3", "--run", "echo {i}")
        assert ran.code == 0
        counts, batch, *_ = ran.out.splitlines()
        assert counts == "3 puters: 3 created"
        assert f"puter wait --batch {batch.split()[1]}" in ran.out

    def test_the_same_once_more_creates_nothing(self, betty: CliWorld) -> None:
        batch = ["submit", "--tag", "twice-{i}", "--count", "3", "--wait", "running"]
        betty.puter(*batch)
        ran = betty.puter(*batch)
        assert (ran.code, ran.out.splitlines()[:2]) == (0, ["3 puters: 3 existing", "now: 3 running"])

    def test_a_file_comes_over_a_pipe(self, betty: CliWorld) -> None:
        lines = '{"tag": "pipe-a"}\n{"tag": "pipe-b", "instance_type": "t3.small"}\n'
        ran = betty.puter("submit", "-", "--json", "--wait", "launched", stdin=lines)
        assert [told["instance_type"] for told in ran.objects()] == ["t3.micro", "t3.small"]

    def test_a_file_with_a_namespace_of_its_own_says_where_the_batch_is(self, betty: CliWorld) -> None:
        text = "namespace: elsewhere\nputers: [far]\n"
        ran = betty.puter("submit", "-", "--wait", "running", stdin=text)
        assert ran.out.splitlines()[-1].endswith(" in namespace elsewhere")

    def test_a_file_with_the_users_own_namespace_says_nothing_of_it(self, betty: CliWorld) -> None:
        ran = betty.puter("submit", "-", "--wait", "running", stdin="namespace: betty\nputers: [near]\n")
        assert re.fullmatch(r"batch b[0-9a-f-]+", ran.out.splitlines()[-1])

    def test_a_conflict_is_listed_and_exit_code_1(self, betty: CliWorld) -> None:
        betty.up("list-1")
        ran = betty.puter("submit", "--tag", "list-{i}", "--count", "3", "--disk", "9", "--instance-type", "t3.small")
        assert ran.code == 1
        assert "2 created, 1 conflict" in ran.out
        (line,) = [line for line in ran.out.splitlines() if line.startswith("list-")]
        assert line.split()[:2] == ["list-1", "conflict"]

    def test_a_file_with_a_mistake_submits_nothing(self, betty: CliWorld) -> None:
        ran = betty.puter("submit", "-", stdin='{"tag": "good"}\n{"tag": "bad", "disk": "big"}\n')
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("puter: stdin:2: disk: 'big'")
        assert betty.puter("status", "good").code == 1

    def test_what_was_requested_is_in_the_log_and_no_secret(self, betty: CliWorld) -> None:
        betty.puter("up", "logged", "--run", "echo hush-run", "-e", "TOKEN=hush-value", "--wait", "queued")
        log = betty.paths.logs / "client.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        (line,) = [line for line in lines if line["tags"] == ["logged"]]
        assert (line["event"], line["origin"], line["user"]) == ("requests.submitted", "up", "betty")
        assert "hush" not in log.read_text()
        assert stat.S_IMODE(log.stat().st_mode) == 0o600


class TestCancel:
    def test_what_ec2_was_requested_is_too_late(self, betty: CliWorld) -> None:
        betty.up("late")
        ran = betty.puter("cancel", "late")
        assert ran.code == 1
        assert re.search(r"late: already launched \(i-[0-9a-f]+\): runs until (\d{4}-\d\d-\d\d )?\d\d:\d\d\n", ran.err)

    def test_a_tag_that_nobody_requested_is_not_known(self, betty: CliWorld) -> None:
        betty.up("some")
        ran = betty.puter("cancel", "nobodys")
        assert (ran.code, ran.err) == (1, "puter: nobodys: not known\n")
