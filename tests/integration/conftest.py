from tests.integration.credential_program import program
from tests.integration.moto_server import caller, moto, moto_url, sessions
from tests.integration.redis_servers import any_redis, any_redis_server, own_valkey, valkey, valkey_server
from tests.integration.scripted_endpoint import told, told_caller, told_sessions
from tests.integration.workshop import workshop

__all__ = [
    "any_redis",
    "any_redis_server",
    "caller",
    "moto",
    "moto_url",
    "own_valkey",
    "program",
    "sessions",
    "told",
    "told_caller",
    "told_sessions",
    "valkey",
    "valkey_server",
    "workshop",
]
