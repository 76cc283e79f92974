"""EC2: the only package that uses aioboto3."""
