"""EC2: the only place that knows aioboto3."""
