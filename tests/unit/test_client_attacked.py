"""What others wrote is pasted into a shell: it must stay a word."""

from __future__ import annotations

import subprocess
from pathlib import Path

from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.ssh_commands import rsync_command


def test_a_pasted_rsync_command_runs_nothing_that_stands_in_a_path(tmp_path: Path) -> None:
    path = f"/$(touch {tmp_path}/owned)/k.pem"
    record = Record(
        namespace="betty", tag="one", phase=Phase.RUNNING, created_at=0.0, changed_at=0.0,
        public_ip="192.0.2.1", private_key_path=path,
    )  # fmt: skip
    command = rsync_command(record)
    assert command
    subprocess.run(["sh", "-c", command.replace("rsync", "true", 1)], check=True)

    assert not (tmp_path / "owned").exists()
