"""Redis as workers see it: every name, read and write of theirs."""
