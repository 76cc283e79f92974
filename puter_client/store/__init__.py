"""Redis as clients see it: every name, and a client's reads and appends."""
