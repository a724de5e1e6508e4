"""One thread's life: take blocks, run batches, reply, and in the same round trip take the next.

    exchange ──► prepare ──► form batches ──► run ──► outbox ──► exchange …
       ▲            │                          │ fails
       │            └─ expired: dropped        └─ each item alone; what fails alone is answered with its error
       └─ claim: blocks of a worker that died run item by item; after MAX_DELIVERIES they go to the dead letters

A worker has several such threads for each model (`instances`): while one computes, another reads and prepares.
"""

import itertools
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from millrace.broker.base import BrokerClock, ConsumerLink, Delivery, Reply
from millrace.protocol import codec
from millrace.protocol.errors import InvalidRequest, MillraceError, ModelFailed, Unavailable
from millrace.protocol.messages import ReplyBlock, ReplyItem, RequestBlock, RequestItem
from millrace.protocol.tensors import Tensor, split_rows
from worker.backends.base import Arrays
from worker.batcher import Batch, ReadyBlock, form_batches
from worker.model import Model

_log = logging.getLogger(__name__)
MAX_DELIVERIES = 3
_BLOCK_MS = 500
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.05, 1.0


@dataclass(slots=True)
class _Outbox:
    """What the next exchange brings to the queue."""

    replies: list[Reply] = field(default_factory=list)
    finished: list[Delivery] = field(default_factory=list)


class Instance:
    """One thread's loop over one model's queue. `run` it in a thread; `drain` from any other.

    `holding` are the deliveries in hand, whose leases the worker's heartbeat renews.
    """

    def __init__(self, model: Model, link: ConsumerLink, *, worker: str, clock: BrokerClock, lease_ms: int) -> None:
        self._model = model
        self._link = link
        self._worker = worker
        self._clock = clock
        self._lease_ms = lease_ms
        self._draining = threading.Event()
        self._next_claim = 0.0
        self._rows_per_block = 1.0
        self.holding: tuple[Delivery, ...] = ()

    def drain(self) -> None:
        """Let `run` return once the batches in hand are answered."""
        self._draining.set()

    def run(self) -> None:
        """Serve until `drain`. The queue's being out of reach is waited out; any other error is raised."""
        outbox = _Outbox()
        while True:
            is_last = self._draining.is_set()
            deliveries = self._exchange(outbox, takes=not is_last)
            if is_last:
                break
            self.holding = tuple(deliveries)
            outbox = self._serve(deliveries)
        try:
            self._link.close()
        except Unavailable as error:
            _log.info("left the queue without a word", extra={"reason": str(error)})

    def _exchange(self, outbox: _Outbox, *, takes: bool) -> list[Delivery]:
        """Deliver the outbox and take blocks, for as long as the queue is out of reach; while draining, try once."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                count = self._count() if takes else 0
                taken = self._link.exchange(
                    outbox.replies, outbox.finished, count=count, block_ms=_BLOCK_MS if takes else 0
                )
            except Unavailable as error:
                _log.warning("the queue does not answer", extra={"reason": str(error), "retry_s": backoff_s})
                if self._draining.wait(backoff_s):
                    return []
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
            else:
                return self._with_more(taken) if takes else []

    def _with_more(self, taken: list[Delivery]) -> list[Delivery]:
        """What was taken, what comes within the model's queue delay, and a block of a worker that died."""
        self.holding = tuple(taken)
        try:
            taken = self._topped_up(taken)
            held = {delivery.entry_id for delivery in taken}
            return taken + [delivery for delivery in self._claimed() if delivery.entry_id not in held]
        except Unavailable as error:
            _log.warning("the queue does not answer", extra={"reason": str(error)})
            return taken

    def _count(self) -> int:
        """How many blocks make about one full batch, by the size of the last ones."""
        return max(1, int(max(1, self._model.batching.max_batch_size) / self._rows_per_block))

    def _topped_up(self, taken: list[Delivery]) -> list[Delivery]:
        """The blocks and those that come within the model's queue delay, if it has one."""
        ends = time.monotonic() + self._model.batching.max_queue_delay_ms / 1000
        while taken and (left_ms := int((ends - time.monotonic()) * 1000)) > 0:
            missing = self._count() - len(taken)
            if missing <= 0:
                break
            taken += self._link.exchange([], [], count=missing, block_ms=left_ms)
        return taken

    def _claimed(self) -> list[Delivery]:
        if time.monotonic() < self._next_claim:
            return []
        self._next_claim = time.monotonic() + self._lease_ms / 4000
        claimed = self._link.claim(lease_ms=self._lease_ms, count=self._count())
        if claimed:
            self._next_claim = 0.0  # whoever left these left more, perhaps
            _log.warning("took over blocks", extra={"model": self._model.announcement.name, "blocks": len(claimed)})
        return claimed

    def _serve(self, deliveries: Sequence[Delivery]) -> _Outbox:
        """Answer the deliveries; what is still to be sent is returned."""
        outbox = _Outbox()
        ready = [block for delivery in deliveries if (block := self._prepared(delivery, outbox))]
        if ready:
            self._rows_per_block = sum(block.rows for block in ready) / len(ready)
        suspects = [block for block in ready if block.delivery.deliveries > 1]
        batches = form_batches(
            [block for block in ready if block.delivery.deliveries == 1],
            self._model.batching.max_batch_size,
            self._model.preparation.may_pad,
        )
        for batch in batches:
            outbox = self._sent(outbox)
            self._run(batch, outbox)
        for block in suspects:
            outbox = self._run_alone(block, outbox, sends=True)
        return outbox

    def _sent(self, outbox: _Outbox) -> _Outbox:
        """An empty outbox, the other one having been delivered."""
        if not outbox.replies and not outbox.finished:
            return outbox
        self._exchange(outbox, takes=False)
        return _Outbox()

    # Before the run

    def _prepared(self, delivery: Delivery, outbox: _Outbox) -> ReadyBlock | None:
        """The block, ready to run; None where nothing of it is left to run."""
        taken, now_ms = time.perf_counter(), self._clock.now_ms()
        try:
            block = codec.decode_request(delivery.block)
        except codec.CodecError as error:
            _log.exception("a block cannot be read", extra={"model": self._model.announcement.name})
            self._bury(delivery, str(error), outbox)
            return None
        if delivery.deliveries > MAX_DELIVERIES:
            self._give_up(delivery, block, outbox)
            return None
        items, inputs = self._inputs(block, now_ms, outbox)
        if not items:
            outbox.finished.append(delivery)
            return None
        return ReadyBlock(
            delivery=delivery,
            reply_to=block.reply_to,
            signature=block.signature,
            items=items,
            inputs=inputs,
            queue_ms=now_ms - block.sent_ms,
            taken=taken,
        )

    def _inputs(self, block: RequestBlock, now_ms: float, outbox: _Outbox) -> tuple[tuple[RequestItem, ...], Arrays]:
        """The items that are in time and can be prepared, with their inputs; the others are answered, or dropped."""
        try:
            if not self._model.preparation.is_needed and all(item.deadline_ms > now_ms for item in block.items):
                return block.items, {name: tensor.to_numpy() for name, tensor in block.tensors.items()}
            return self._prepared_items(block, outbox)
        except Exception as error:  # whatever its data led to, it must not end the worker
            _log.exception("a block cannot be prepared", extra={"model": self._model.announcement.name})
            refused = [_error_item(item, self._failure(error)) for item in block.items]
            outbox.replies.append(self._reply(block.reply_to, refused))
            return (), {}

    def _prepared_items(self, block: RequestBlock, outbox: _Outbox) -> tuple[tuple[RequestItem, ...], Arrays]:
        counts = [item.rows for item in block.items]
        columns = {name: split_rows(tensor, counts) for name, tensor in block.tensors.items()}
        items, parts, refused = [], [], []
        for i, item in enumerate(block.items):
            if item.deadline_ms <= self._clock.now_ms():
                continue
            try:
                parts += self._prepared_rows({name: column[i] for name, column in columns.items()}, item.rows)
                items.append(item)
            except InvalidRequest as error:
                refused.append(_error_item(item, error))
        if refused:
            outbox.replies.append(self._reply(block.reply_to, refused))
        if not items:
            return (), {}
        joined = {name: self._model.preparation.join(name, [part[name] for part in parts]) for name in parts[0]}
        return tuple(items), joined

    def _prepared_rows(self, tensors: dict[str, Tensor], rows: int) -> list[Arrays]:
        arrays = {name: tensor.to_numpy() for name, tensor in tensors.items()}
        return [self._model.preparation.before({name: a[i : i + 1] for name, a in arrays.items()}) for i in range(rows)]

    def _bury(self, delivery: Delivery, error: str, outbox: _Outbox) -> None:
        """Put the block with the dead letters; if that cannot be now, leave it to be claimed again."""
        try:
            self._link.bury(delivery, error)
        except Unavailable as unavailable:
            _log.warning("a block could not be buried yet", extra={"reason": str(unavailable)})
        else:
            outbox.finished.append(delivery)

    def _give_up(self, delivery: Delivery, block: RequestBlock, outbox: _Outbox) -> None:
        model = self._model.announcement.name
        text = f"the request was given up after {delivery.deliveries - 1} workers failed on it"
        _log.error("gave up on a block", extra={"model": model, "requests": [item.trace for item in block.items]})
        error = ModelFailed(f"model '{model}': {text}")
        outbox.replies.append(self._reply(block.reply_to, [_error_item(item, error) for item in block.items]))
        self._bury(delivery, text, outbox)

    # The run

    def _run(self, batch: Batch, outbox: _Outbox) -> None:
        blocks, preparation = batch.blocks, self._model.preparation
        try:
            inputs = {
                name: preparation.join(name, [block.inputs[name] for block in blocks]) for name in blocks[0].inputs
            }
            started = time.perf_counter()
            outputs = self._model.run(blocks[0].signature, inputs, batch.rows)
            compute_ms = (time.perf_counter() - started) * 1000
            replies = [
                self._reply(
                    reply_to, [_item(*pair, started) for pair in items], _picked(outputs, rows), compute_ms, batch.rows
                )
                for reply_to, items, rows in _by_caller(blocks)
            ]
        except Exception:
            _log.warning("a batch failed; its requests run one by one", extra=self._about(blocks), exc_info=True)
            for block in blocks:
                self._run_alone(block, outbox)
            return
        outbox.replies += replies
        outbox.finished += [block.delivery for block in blocks]

    def _run_alone(self, block: ReadyBlock, outbox: _Outbox, *, sends: bool = False) -> _Outbox:
        """Run a block item by item, so that one that fails takes no other with it.

        With `sends`, each answer is delivered before the next item runs, and every other time the items run from the
        last to the first: then even one that ends the process leaves only itself without an answer.
        """
        ends = list(itertools.accumulate(item.rows for item in block.items))
        order = range(len(ends)) if block.delivery.deliveries % 2 else reversed(range(len(ends)))
        for i in order:
            item = block.items[i]
            outbox.replies.append(self._answer_alone(block, item, slice(ends[i] - item.rows, ends[i])))
            if sends:
                outbox = self._sent(outbox)
        outbox.finished.append(block.delivery)
        return outbox

    def _answer_alone(self, block: ReadyBlock, item: RequestItem, rows: slice) -> Reply:
        started = time.perf_counter()
        try:
            outputs = self._model.run(block.signature, {name: a[rows] for name, a in block.inputs.items()}, item.rows)
            compute_ms = (time.perf_counter() - started) * 1000
            return self._reply(block.reply_to, [_item(item, block, started)], outputs, compute_ms, item.rows)
        except Exception as error:
            _log.exception("a request failed in its model", extra=self._about([replace(block, items=(item,))]))
            return self._reply(block.reply_to, [_error_item(item, self._failure(error))])

    def _failure(self, error: Exception) -> MillraceError:
        if isinstance(error, MillraceError):
            return error
        first_line = str(error).strip().partition("\n")[0][:300]
        return ModelFailed(f"model '{self._model.announcement.name}' failed: {type(error).__name__}: {first_line}")

    def _reply(
        self,
        reply_to: str,
        items: Sequence[ReplyItem],
        outputs: Arrays | None = None,
        compute_ms: float = 0.0,
        rows: int = 0,
    ) -> Reply:
        tensors = {name: Tensor.from_numpy(array) for name, array in (outputs or {}).items()}
        block = ReplyBlock(
            worker=self._worker, compute_ms=compute_ms, batch_rows=rows, items=tuple(items), tensors=tensors
        )
        return Reply(reply_to, codec.encode_reply(block))

    def _about(self, blocks: Iterable[ReadyBlock]) -> dict[str, object]:
        requests = [item.trace for block in blocks for item in block.items]
        return {"model": self._model.announcement.name, "request_id": requests[0] if len(requests) == 1 else requests}


def _item(item: RequestItem, block: ReadyBlock, started: float) -> ReplyItem:
    return ReplyItem(item.id, item.rows, block.queue_ms, (started - block.taken) * 1000)


def _error_item(item: RequestItem, error: MillraceError) -> ReplyItem:
    return ReplyItem(item.id, 0, 0.0, 0.0, error.code, str(error))


def _by_caller(
    blocks: Sequence[ReadyBlock],
) -> list[tuple[str, list[tuple[RequestItem, ReadyBlock]], list[slice]]]:
    """The blocks of each API process: where its replies go, its items with their blocks, and its rows of the batch."""
    found: dict[str, tuple[list[tuple[RequestItem, ReadyBlock]], list[slice]]] = {}
    row = 0
    for block in blocks:
        items, rows = found.setdefault(block.reply_to, ([], []))
        items += [(item, block) for item in block.items]
        rows.append(slice(row, row + block.rows))
        row += block.rows
    return [(reply_to, items, rows) for reply_to, (items, rows) in found.items()]


def _picked(outputs: Arrays, rows: Sequence[slice]) -> Arrays:
    if len(rows) == 1:
        return {name: array[rows[0]] for name, array in outputs.items()}
    return {name: np.concatenate([array[part] for part in rows]) for name, array in outputs.items()}
