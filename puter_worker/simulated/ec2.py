"""moto's EC2, of which each instance is a `Machine`: it has a console, and ends when its machine has shut down."""

from __future__ import annotations

import base64
import io
import re
import threading
from collections.abc import Iterable, Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from puter_worker.simulated.machine import Machine, make_commands

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

AT_ONCE = 20  # machines that run at a time; others stay dark until one of them has ended
_INSTANCE = re.compile(rb"<instanceId>(i-[0-9a-f]+)</instanceId>")
_CONSOLE = """\
<?xml version="1.0" encoding="UTF-8"?>
<GetConsoleOutputResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>simulated</requestId>\
<instanceId>{id}</instanceId><output>{output}</output></GetConsoleOutputResponse>
"""


class SimulatedEc2:
    """A WSGI application: moto's, and the machines of the instances that it launches."""

    def __init__(self, moto: WSGIApplication, folder: Path) -> None:
        """`folder`: for the machines' folders."""
        self._moto = moto
        self._folder = folder
        self._commands = folder / "bin"
        make_commands(self._commands)
        self._machines: dict[str, Machine] = {}
        self._lock = threading.Lock()  # moto ends an instance in steps, which nobody may see
        self._room = threading.Semaphore(AT_ONCE)
        self._took_back = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one call."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        form = {name: values[0] for name, values in parse_qs(body.decode("latin-1"), keep_blank_values=True).items()}
        machine = self._machines.get(form.get("InstanceId", ""))
        if form.get("Action") == "GetConsoleOutput" and machine is not None:
            start_response("200 OK", [("Content-Type", "text/xml")])
            output = base64.b64encode(machine.console).decode()
            return [_CONSOLE.format(id=escape(form["InstanceId"]), output=output).encode()]
        with self._lock:
            answer = b"".join(self._moto(environ, start_response))
        if form.get("Action") == "RunInstances":
            for found in _INSTANCE.finditer(answer):
                self._launch(found[1].decode(), form)
        elif form.get("Action") == "CreateTags":
            for name in _numbered(form, "ResourceId.{}"):
                if (tagged := self._machines.get(form[name])) is not None:
                    tagged.set_tags(_tags(form, ""))
        return [answer]

    def _launch(self, instance_id: str, form: dict[str, str]) -> None:
        taken_back = form.get("InstanceMarketOptions.MarketType") == "spot" and not self._took_back
        self._took_back = self._took_back or taken_back
        user_data = base64.b64decode(form["UserData"])
        machine = Machine(self._folder / instance_id, self._commands, user_data, taken_back=taken_back)
        for name in _numbered(form, "TagSpecification.{}.ResourceType"):
            if form[name] == "instance":
                machine.set_tags(_tags(form, name.removesuffix("ResourceType")))
        self._machines[instance_id] = machine
        threading.Thread(target=self._run, args=(instance_id, machine), daemon=True).start()

    def _run(self, instance_id: str, machine: Machine) -> None:
        try:
            with self._room:
                machine.run()
        finally:
            with self._lock:
                _shut_down(instance_id)

    def end(self) -> None:
        """Kill the processes of all machines."""
        for machine in list(self._machines.values()):
            machine.end()


def _numbered(form: dict[str, str], pattern: str) -> Iterator[str]:
    """The names of a list's parameters, which are numbered from 1."""
    return takewhile(form.__contains__, (pattern.format(number) for number in count(1)))


def _tags(form: dict[str, str], prefix: str) -> dict[str, str]:
    keys = _numbered(form, prefix + "Tag.{}.Key")
    return {form[key]: form.get(key.removesuffix("Key") + "Value", "") for key in keys}


def _shut_down(instance_id: str) -> None:
    """Have moto show the instance as one that has shut itself down, which ends it, as Puter launches it."""
    from moto.ec2.models import ec2_backends
    from moto.ec2.models.instances import StateReason

    for regions in list(ec2_backends.values()):
        for backend in list(regions.values()):
            instance = backend.get_instance_by_id(instance_id)
            if instance is not None:
                instance.terminate()
                code = "Client.InstanceInitiatedShutdown"
                instance.state_reason = StateReason(f"{code}: Instance initiated shutdown", code)
