"""`python -m puter_worker.simulated PORT FOLDER`: serves a simulated EC2 on loopback until standard input ends.

It prints its port (with 0, any that is free). It ends with the process that has started it, however that ends, and all
its machines end with it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from puter_worker.simulated.ec2 import SimulatedEc2


def main() -> None:
    """Serve."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    ec2 = SimulatedEc2(DomainDispatcherApplication(create_backend_app), folder)
    server = make_server("127.0.0.1", port, ec2, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.buffer.read()
    ec2.end()
    # What agents have started is in this process group, as this process is.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
