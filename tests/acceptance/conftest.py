from tests.acceptance.cli_world import betty, fresh
from tests.acceptance.published import published
from tests.integration.moto_server import moto, moto_url
from tests.integration.redis_servers import own_valkey, valkey, valkey_server

__all__ = ["betty", "fresh", "moto", "moto_url", "own_valkey", "published", "valkey", "valkey_server"]
