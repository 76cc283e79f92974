"""The local engine: a Valkey and one worker on this host, for whoever has no Redis."""

from puter_client.local.engine import Engine, EngineStatus, engine_status, ensure_engine, stop_engine
from puter_client.local.idle import exit_if_unused
from puter_client.local.server import Patience

__all__ = [
    "Engine",
    "EngineStatus",
    "Patience",
    "engine_status",
    "ensure_engine",
    "exit_if_unused",
    "stop_engine",
]
