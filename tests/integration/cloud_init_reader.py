"""What cloud-init itself makes of user data; run by the Python that cloud-init belongs to, without Puter.

Reads lines of JSON and answers each with one. Bytes are base64.

    cloud_init_reader.py parts   {"user_data", "members"}: the parts that the handlers of each member would be given
    cloud_init_reader.py boot    {"user_data", "launch_index", "folder"}: what its handlers did in that folder
    cloud_init_reader.py known   one line: the types and beginnings of texts that it knows
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloudinit import handlers, stages, user_data
from cloudinit.filters.launch_index import Filter
from cloudinit.helpers import Paths
from cloudinit.settings import PER_INSTANCE
from cloudinit.sources.DataSourceNone import DataSourceNone
from cloudinit.user_data import UserDataProcessor

logging.disable(logging.CRITICAL)


def as_bytes(payload: str | bytes | None) -> bytes:
    if isinstance(payload, str):
        return payload.encode("utf-8", "surrogateescape")
    return payload or b""


def parts(asked: dict[str, Any]) -> dict[str, Any]:
    """The way from what EC2 hands out to what handlers are given, in cloud-init's order; each text is told once."""
    texts: dict[str, str] = {}

    def take(found: list[tuple[str, str, str]], name: str, text: str | bytes, headers: dict[str, str]) -> None:
        body = as_bytes(text)
        digest = hashlib.sha256(body).hexdigest()
        texts[digest] = base64.b64encode(body).decode()
        found.append((name, headers["Content-Type"], digest))

    try:
        processor = UserDataProcessor(Paths({"cloud_dir": "/nonexistent", "run_dir": "/nonexistent"}))
        message = processor.process(base64.b64decode(asked["user_data"]))
        str(message)  # cloud-init stores it before it goes on
        members: list[list[tuple[str, str, str]]] = [[] for _ in range(asked["members"])]
        for index, found in enumerate(members):
            handlers.walk(Filter(index).apply(message), take, found)
    except Exception as error:  # noqa: BLE001 - any error here ends a boot's first stage
        return {"raised": repr(error)}
    return {"members": members, "texts": texts}


class Init(stages.Init):  # type: ignore[misc]
    """Has the folder of a test in the place of cloud-init's own folders, however often it reads its settings."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def _read_cfg(self, extra_fns: object) -> dict[str, Any]:
        paths = {f"{name}_dir": str(self._folder / name) for name in ("cloud", "run", "templates")}
        return {"system_info": {"paths": paths, "distro": "debian"}}


def boot(asked: dict[str, Any]) -> dict[str, Any]:
    """A boot as `cloud-init init` does it, once the network is there."""
    folder = Path(asked["folder"])
    told = folder / "told"
    os.environ["TOLD"] = str(told)
    init = Init(folder)
    init.initialize()
    source = DataSourceNone(init.cfg, init.distro, init.paths)
    source.userdata_raw = base64.b64decode(asked["user_data"])
    source.metadata = {"instance-id": "i-1", "launch-index": asked["launch_index"]}
    init.datasource = init.paths.datasource = source
    init.instancify()
    assert init.paths.cloud_dir.startswith(asked["folder"]), "cloud-init would use this computer's own folders"
    raised = None
    try:
        init.update()
        init.consume_data(PER_INSTANCE)
    except Exception as error:  # noqa: BLE001 - any error here ends a boot's first stage
        raised = repr(error)
    scripts = (folder / "cloud/instance/scripts").glob("*")
    return {
        "raised": raised,
        "told": told.read_text().splitlines() if told.exists() else [],
        "scripts": {script.name: base64.b64encode(script.read_bytes()).decode() for script in scripts},
    }


def known() -> dict[str, Any]:
    types = {
        *handlers.INCLUSION_TYPES_MAP.values(),
        *handlers.PART_CONTENT_TYPES,
        *user_data.TYPE_NEEDED,
        *user_data.INCLUDE_TYPES,
        *user_data.ARCHIVE_TYPES,
        *user_data.DECOMP_TYPES,
        handlers.OCTET_TYPE,
    }
    return {"types": sorted(types), "beginnings": sorted(handlers.INCLUSION_TYPES_MAP)}


def main(mode: str) -> None:
    if mode == "known":
        print(json.dumps(known()))
        return
    answer: Callable[[dict[str, Any]], dict[str, Any]] = {"parts": parts, "boot": boot}[mode]
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
