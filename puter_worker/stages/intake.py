"""intake: takes requests from the inboxes, decides what becomes of each, and puts new ones into the queue.

May run twice, in any number of workers: what is taken is trimmed in the same transaction that writes what came
of it, and that transaction rests on the count of takings, so of two intakes that read the same requests one writes.
Killed before it, nothing has happened (the short lock of a taking runs out); killed after it, everything has.
What a request is decided on may be a moment old: a record is written only if it is still as it was read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import recheck_spec
from puter_client.contract.key import NAMESPACE, PuterKey, check_tag
from puter_client.contract.outcome import Outcome
from puter_client.contract.record import Record
from puter_client.contract.request import MAX_BATCH_ID, CancelRequest, Origin, Request, UpRequest
from puter_client.contract.spec import Spec
from puter_worker.stages.settle import cancelled, is_stale, settle
from puter_worker.store import names
from puter_worker.store.base import Stored
from puter_worker.store.machines import Admission
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore

_log = structlog.get_logger("puter.intake")
_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_BATCH_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9-]{{0,{MAX_BATCH_ID - 1}}}")
_UNREADABLE = "its record is of another version of Puter: use another tag, or workers of the version that wrote it"
_USER = re.compile(r"[^\x00-\x1f\x7f]{1,64}")


class _Addressee(msgspec.Struct):
    """As much of a refused request as is needed to tell its sender."""

    tag: str = ""
    batch: str = ""
    size: int = 0
    user: str = ""


_addressee = msgspec.json.Decoder(_Addressee)


@dataclass(slots=True)
class Settling:
    """One transaction in the making: records as they will be, and their originals as read."""

    txn: Txn
    now: float
    read: dict[PuterKey, Stored[Record]]
    served: dict[PuterKey, Spec | None]
    new: dict[PuterKey, Record] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)

    def count(self, outcome: str) -> None:
        """One more request ended this way."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def is_unreadable(self, key: PuterKey) -> bool:
        """Whether the key has a record that does not decode: what it stands for must not be requested again."""
        return self.read[key].rev is not None and self.read[key].value is None

    def record(self, key: PuterKey) -> Record | None:
        """The key's record as the requests so far leave it."""
        return self.new.get(key) or self.read[key].value


async def intake(store: WorkerStore, namespaces: Sequence[str]) -> int:
    """Take what lies in the inboxes of these namespaces, one helping each; how many requests that were."""
    taken = 0
    for namespace in namespaces:
        if not NAMESPACE.fullmatch(namespace):
            _log.warning("namespace.refused", namespace=namespace[:60])
            await store.drop_ready(namespace)
            continue
        try:
            taken += await _take(store, namespace)
        except store.refusals as error:
            # What one client made of its inbox must not stop the others.
            _log.error("inbox.refused", namespace=namespace, error=type(error).__name__)
            await store.drop_ready(namespace)
    return taken


async def _take(store: WorkerStore, namespace: str) -> int:
    raws, count = await store.take(namespace)
    if not raws:
        await store.leave_ready(namespace)
        return 0
    now = store.now()
    txn = Txn()
    store.put_taken(txn, namespace, count, len(raws))
    requests: list[tuple[PuterKey, Request, bytes]] = []
    for raw in raws:
        try:
            request = decode_request(raw)
        except InvalidInput as error:
            refuse(store, txn, namespace, raw, str(error), now)
            continue
        requests.append((PuterKey(namespace, request.tag), request, raw))
    settling = await open_settling(store, txn, [key for key, _, _ in requests], now)
    for key, request, raw in requests:
        if is_stale(settling.record(key), now):
            if isinstance(request, UpRequest):
                store.put_batch(txn, batch_info(key, request, now))
                store.put_row(txn, key, request.batch, BatchRow())
            store.park(txn, key, raw, now)
            settling.count("parked")
        else:
            settle_one(store, settling, key, request)
    write_records(store, settling)
    if await store.commit(txn):
        # Somebody else took them, or moved a record: what is left is read again.
        await store.give_back(namespace)
        return 0
    _log.info("requests.taken", namespace=namespace, count=len(raws), outcomes=settling.outcomes)
    return len(raws)


async def open_settling(store: WorkerStore, txn: Txn, keys: Sequence[PuterKey], now: float) -> Settling:
    """Read what the decisions about these keys rest on."""
    distinct = list(dict.fromkeys(keys))
    read = dict(zip(distinct, await store.records(distinct), strict=True))
    known = [key for key, stored in read.items() if stored.value is not None]
    served = dict(zip(known, await store.specs(known), strict=True))
    return Settling(txn=txn, now=now, read=read, served=served)


def settle_one(store: WorkerStore, settling: Settling, key: PuterKey, request: Request) -> None:
    """Decide one request and add what it changes to the transaction."""
    txn, now = settling.txn, settling.now
    if settling.is_unreadable(key):
        _log.error("request.refused", namespace=key.namespace, tag=key.tag, why=_UNREADABLE)
        settling.count("refused")
        if isinstance(request, UpRequest):
            store.put_batch(txn, batch_info(key, request, now))
            store.put_row(txn, key, request.batch, BatchRow(outcome=Outcome.REFUSED, message=_UNREADABLE))
        return
    if isinstance(request, CancelRequest):
        old = settling.record(key)
        changed = cancelled(old, request, now)
        settling.count("cancel" if changed else "cancel too late")
        if changed:
            settling.new[key] = changed
            if changed.target:
                txn.do("ZREM", names.launch_queue(changed.target, key.namespace), key.tag)
            if changed.batch_id:
                row = BatchRow(
                    outcome=Outcome.CANCELLED, generation=changed.generation, request_number=changed.request_number
                )
                store.put_row(txn, key, changed.batch_id, row)
        return
    served = settling.served.get(key)
    verdict = settle(settling.record(key), served, request, key, now)
    store.put_batch(txn, batch_info(key, request, now))
    store.put_row(txn, key, request.batch, verdict.row)
    outcome = verdict.row.outcome
    settling.count(str(outcome))
    if verdict.record:
        settling.new[key] = verdict.record
        settling.served[key] = request.spec
        store.put_spec(txn, key, request.spec)
        store.enqueue(txn, key)
    if verdict.taken:
        settling.new[key] = verdict.taken
        settling.served[key] = request.spec
        store.put_spec(txn, key, request.spec)
    if outcome in (Outcome.EXISTING, Outcome.JOINED):
        cidrs = set(request.spec.ssh_from)
        # Who asks for one machine is about to sign in: should somebody have taken its group off, it gets it again.
        if outcome is Outcome.JOINED or request.origin is not Origin.UP:
            cidrs -= set(served.ssh_from if served else ())
        if cidrs or (outcome is Outcome.EXISTING and request.origin is Origin.UP):
            store.put_admission(txn, Admission(key.namespace, key.tag, tuple(sorted(cidrs))), now)


def write_records(store: WorkerStore, settling: Settling) -> None:
    """Add the records that the requests changed to the transaction, each resting on what was read."""
    for key, record in settling.new.items():
        event = "request.cancelled" if record.ended_at else "request.accepted"
        detail = {"batch": record.batch_id or "", "owner": record.owner or ""}
        store.put_record(settling.txn, settling.read[key], record, event=event, detail=detail)


async def settle_parked(store: WorkerStore, key: PuterKey) -> None:
    """Decide the requests that waited for EC2's word on the key's record; it is as true now as it can be."""
    while True:
        raws, rest = await store.parked(key)
        if not raws:
            return
        txn, now = Txn(), store.now()
        settling = await open_settling(store, txn, [key], now)
        store.put_unparked(txn, key, raws, rest=rest)
        for raw in raws:
            try:
                request = decode_request(raw)
            except InvalidInput as error:  # parked by a worker of another version
                refuse(store, txn, key.namespace, raw, str(error), now)
            else:
                settle_one(store, settling, key, request)
        write_records(store, settling)
        await store.commit(txn)


def decode_request(raw: bytes) -> Request:
    """The request that a client appended, checked anew: a client's word is only a claim.

    Raises:
        InvalidInput: it is no request of this version, or holds what cannot be used.
    """
    try:
        request = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("not a request that this worker's version knows") from None
    check_tag(request.tag)
    if isinstance(request, UpRequest):
        recheck_spec(request.spec)
        if request.max_parallel is not None and request.max_parallel < 1:
            raise InvalidInput(f"max_parallel {request.max_parallel}: must be 1 or more")
    for name, text, pattern in (("batch", request.batch, _BATCH_ID), ("user", request.user, _USER)):
        if text is not None and not pattern.fullmatch(text):
            raise InvalidInput(f"{name}: not a name that a client of Puter makes")
    return request


def refuse(store: WorkerStore, txn: Txn, namespace: str, raw: bytes, why: str, now: float) -> None:
    """Tell the sender of a request that cannot be used, as far as it can be told who that is."""
    _log.warning("request.refused", namespace=namespace, why=why, bytes=len(raw))
    try:
        to = _addressee.decode(raw)
        key = PuterKey(namespace, check_tag(to.tag))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidInput):
        return
    if not _BATCH_ID.fullmatch(to.batch):
        return
    owner = to.user if _USER.fullmatch(to.user) else "?"
    info = BatchInfo(batch_id=to.batch, namespace=namespace, size=to.size, owner=owner, created_at=now)
    store.put_batch(txn, info)
    store.put_row(txn, key, to.batch, BatchRow(outcome=Outcome.REFUSED, message=why))


def batch_info(key: PuterKey, request: UpRequest, now: float) -> BatchInfo:
    """The head of the request's batch."""
    return BatchInfo(
        batch_id=request.batch, namespace=key.namespace, size=request.size, owner=request.user, created_at=now
    )
