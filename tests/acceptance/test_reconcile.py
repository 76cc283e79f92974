"""After a reboot the next command starts the engine again, and EC2 is asked before anything is shown."""

from __future__ import annotations

import signal

from tests.acceptance.cli_world import CliWorld
from tests.integration.engine_world import is_running, kill, wait_for


def test_a_machine_that_ended_while_the_host_was_down_is_shown_as_ended(betty: CliWorld) -> None:
    told = betty.up("one")
    pids = betty.processes()
    for pid in pids:
        kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(is_running(pid) for pid in pids), "the engine to be gone")
    betty.ec2().terminate_instances(InstanceIds=[told["instance_id"]])

    (shown,) = betty.puter("status", "one", "--json").objects()

    assert shown["phase"] == "terminated"
