"""The workers' store: the only place in the worker that knows Redis commands."""

from __future__ import annotations

from puter_worker.store.inboxes import Inboxes
from puter_worker.store.intents import Intents
from puter_worker.store.launch_queues import LaunchQueues
from puter_worker.store.machines import Machines
from puter_worker.store.workers import Workers


class WorkerStore(Inboxes, LaunchQueues, Intents, Machines, Workers):
    """All that workers read and write in Redis; each part is in a file of its own."""
