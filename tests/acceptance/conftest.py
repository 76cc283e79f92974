from tests.acceptance.cli_world import betty, fresh
from tests.integration.moto_server import moto, moto_url
from tests.integration.redis_servers import valkey, valkey_server

__all__ = ["betty", "fresh", "moto", "moto_url", "valkey", "valkey_server"]
