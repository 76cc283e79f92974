"""Redis as workers use it: all their names, reads and writes."""
