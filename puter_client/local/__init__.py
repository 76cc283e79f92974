"""The local engine: a Valkey server and one worker on this computer, for users who have no Redis."""

from puter_client.local.engine import Engine, EngineStatus, engine_status, ensure_engine, stop_engine
from puter_client.local.idle import exit_if_unused

__all__ = [
    "Engine",
    "EngineStatus",
    "engine_status",
    "ensure_engine",
    "exit_if_unused",
    "stop_engine",
]
