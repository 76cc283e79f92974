"""Batch files: YAML, JSONL and CSV to requests.

The way of a file: `read` decodes it and finds its format; `yaml_file`, `jsonl_file` and `csv_file` each turn it
into the same sheet of written fields with their lines; `levels` lays entry over option over default; `build`
expands matrices and makes checked specs. What cannot be used is collected in `problems` and told at once.
"""

from puter_client.batch.generated import generate
from puter_client.batch.model import MAX_ENTRIES, MAX_FILE_BYTES, Batch, Entry, Format
from puter_client.batch.read import read_batch
from puter_client.batch.source import read_source

__all__ = ["MAX_ENTRIES", "MAX_FILE_BYTES", "Batch", "Entry", "Format", "generate", "read_batch", "read_source"]
