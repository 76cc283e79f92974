"""The embedded engine: a Valkey and one worker on this host, for whoever has no Redis."""
