"""Batch files: YAML, JSONL and CSV to requests.

`read` decodes a file and finds its format; `yaml_file`, `jsonl_file` and `csv_file` each turn it
into the same sheet of written fields with their lines; `levels` merges config.toml, defaults, options and entry;
`build` expands matrices and makes checked specs. Problems are collected in `problems` and reported together.
"""

from puter_client.batch.generated import generate, single
from puter_client.batch.model import MAX_ENTRIES, MAX_FILE_BYTES, Batch, Entry, Format
from puter_client.batch.read import read_batch
from puter_client.batch.source import read_source

__all__ = [
    "MAX_ENTRIES",
    "MAX_FILE_BYTES",
    "Batch",
    "Entry",
    "Format",
    "generate",
    "read_batch",
    "read_source",
    "single",
]
