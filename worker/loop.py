"""One thread's life: take blocks, run batches, reply, and in the same round trip take the next.

    exchange ──► prepare ──► form batches ──► run ──► outbox ──► exchange …
       ▲            │             ▲           │ fails
       │            │             │           └─ each item alone; what fails alone is answered with its error
       │            └─────────────┴─ expired or cancelled: dropped
       └─ claim: blocks of a worker that died run item by item; after MAX_DELIVERIES they go to the dead letters

A worker has several such threads for each model (`instances`): while one computes, another reads and prepares.
"""

import itertools
import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from millrace.broker.base import BrokerClock, ConsumerLink, Delivery, Reply
from millrace.protocol import codec
from millrace.protocol.errors import DeadlineExceeded, InvalidRequest, MillraceError, ModelFailed, Unavailable
from millrace.protocol.messages import ReplyBlock, ReplyItem, RequestBlock, RequestItem
from millrace.protocol.tensors import Tensor, split_rows
from worker.backends.base import Arrays
from worker.batcher import Batch, Piece, TakenBlock, form_batches
from worker.model import Model

_log = logging.getLogger(__name__)
MAX_DELIVERIES = 3
_CHOICE = 4  # batches' worth of rows to take where lengths vary, so that there are similar ones among them
_BLOCK_MS = 500
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.05, 1.0


@dataclass(slots=True)
class _Outbox:
    """What the next exchange brings to the queue."""

    replies: list[Reply] = field(default_factory=list)
    finished: list[Delivery] = field(default_factory=list)


class Claiming:
    """The instances of one worker take turns to claim and run what others left.

    A block that ends the process would otherwise be counted up together with what another instance claimed meanwhile.
    A turn that lasts for more than a lease is over: its run may never end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: object = None
        self._ends = 0.0

    def take(self, holder: object, for_s: float) -> bool:
        """Take the turn, or keep it; False while it is another's."""
        with self._lock:
            now = time.monotonic()
            if self._holder not in (None, holder) and now < self._ends:
                return False
            self._holder, self._ends = holder, now + for_s
            return True

    def leave(self, holder: object) -> None:
        """Give the turn up; does nothing when it is another's."""
        with self._lock:
            if self._holder is holder:
                self._holder = None


class Instance:
    """One thread's loop over one model's queue. `run` it in a thread; `drain` from any other.

    `holding` are the deliveries in hand, whose leases the worker's heartbeat renews.
    """

    def __init__(
        self,
        model: Model,
        link: ConsumerLink,
        *,
        worker: str,
        clock: BrokerClock,
        lease_ms: int,
        claiming: "Claiming | None" = None,
    ) -> None:
        self._model = model
        self._link = link
        self._worker = worker
        self._clock = clock
        self._lease_ms = lease_ms
        self._draining = threading.Event()
        self._claiming = claiming or Claiming()
        self._next_claim = 0.0
        self._rows_per_block = 1.0
        self._cancelled: set[tuple[str, int]] = set()
        self._last_deadline_ms = math.inf
        self.holding: tuple[Delivery, ...] = ()

    @property
    def is_stuck(self) -> bool:
        """Whether a run goes on although all its callers were told, a lease ago, that there is no answer in time."""
        return self._clock.now_ms() > self._last_deadline_ms + self._lease_ms

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
            self._claiming.leave(self)
        try:
            self._link.close()
        except Unavailable as error:
            _log.info("left the queue without a word", extra={"reason": str(error)})

    def _exchange(self, outbox: _Outbox, *, takes: bool) -> list[Delivery]:
        """Deliver the outbox and take blocks, for as long as the queue is out of reach; while draining, try once."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                count, block_ms = (self._count(), self._wait_ms()) if takes else (0, 0)
                taken = self._link.exchange(outbox.replies, outbox.finished, count=count, block_ms=block_ms)
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
            held = {(delivery.priority, delivery.entry_id) for delivery in taken}
            return taken + [block for block in self._claimed() if (block.priority, block.entry_id) not in held]
        except Unavailable as error:
            _log.warning("the queue does not answer", extra={"reason": str(error)})
            return taken

    def _count(self) -> int:
        """How many blocks make about one full batch, by the size of the last ones; a few batches where lengths vary."""
        rows = max(1, self._model.batching.max_batch_size)
        return max(1, int(rows * (_CHOICE if self._model.preparation.pads else 1) / self._rows_per_block))

    def _wait_ms(self) -> int:
        """How long to wait for a block: no longer than until blocks of others may be claimed."""
        return min(_BLOCK_MS, max(0, math.ceil((self._next_claim - time.monotonic()) * 1000)))

    def _topped_up(self, taken: list[Delivery]) -> list[Delivery]:
        """The blocks and those that come within the model's queue delay, if it has one, until a batch is full."""
        ends = time.monotonic() + self._model.batching.max_queue_delay_ms / 1000
        while taken and (left_ms := int((ends - time.monotonic()) * 1000)) > 0:
            missing = self._model.batching.max_batch_size - sum(delivery.rows for delivery in taken)
            if missing <= 0:
                break
            taken += self._link.exchange([], [], count=missing, block_ms=left_ms)
            self.holding = tuple(taken)
        return taken

    def _claimed(self) -> list[Delivery]:
        if time.monotonic() < self._next_claim:
            return []
        self._next_claim = time.monotonic() + self._lease_ms / 4000
        if not self._claiming.take(self, self._lease_ms / 1000):
            return []
        claimed = self._link.claim(lease_ms=self._lease_ms, count=self._count())
        if claimed:
            self._next_claim = 0.0  # whoever left these left more, perhaps
            _log.warning("took over blocks", extra={"model": self._model.announcement.name, "blocks": len(claimed)})
        return claimed

    def _serve(self, deliveries: Sequence[Delivery]) -> _Outbox:
        """Answer the deliveries; what is still to be sent is returned."""
        outbox = _Outbox()
        if not deliveries:
            return outbox
        self._rows_per_block = sum(max(1, delivery.rows) for delivery in deliveries) / len(deliveries)
        blocks = [(delivery, block) for delivery in deliveries if (block := self._read(delivery, outbox))]
        self._cancelled = self._asked_for_cancelled(blocks)
        pieces: list[list[Piece]] = []
        suspects: list[list[Piece]] = []
        for delivery, block in blocks:
            (pieces if delivery.deliveries == 1 else suspects).append(self._prepared(delivery, block, outbox))
        for batch in form_batches(
            list(itertools.chain.from_iterable(pieces)),
            self._model.batching.max_batch_size,
            self._model.preparation.may_pad,
            self._model.cost,
        ):
            outbox = self._sent(outbox)
            self._run(batch, outbox)
        for of_one_block in suspects:
            outbox = self._run_suspects(of_one_block, outbox)
        return outbox

    def _sent(self, outbox: _Outbox) -> _Outbox:
        """An empty outbox, the other one having been delivered."""
        if not outbox.replies and not outbox.finished:
            return outbox
        self._exchange(outbox, takes=False)
        return _Outbox()

    # Before the run

    def _read(self, delivery: Delivery, outbox: _Outbox) -> RequestBlock | None:
        """The block; None where it cannot be read, or was given up."""
        try:
            block = codec.decode_request(delivery.block)
        except codec.CodecError as error:
            _log.exception("a block cannot be read", extra={"model": self._model.announcement.name})
            self._bury(delivery, str(error), outbox)
            return None
        if not block.items:
            self._bury(delivery, "the block holds no requests", outbox)
            return None
        if delivery.deliveries > MAX_DELIVERIES:
            self._give_up(delivery, block, outbox)
            return None
        return block

    def _asked_for_cancelled(self, blocks: Sequence[tuple[Delivery, RequestBlock]]) -> set[tuple[str, int]]:
        """The items, by reply stream and id, whose callers went away: none where that cannot be known now."""
        if not self._link.cancelled_count:
            return set()
        try:
            return self._link.cancelled([(block.reply_to, item.id) for _, block in blocks for item in block.items])
        except Unavailable as error:
            _log.warning("the queue does not answer", extra={"reason": str(error)})
            return set()

    def _prepared(self, delivery: Delivery, block: RequestBlock, outbox: _Outbox) -> list[Piece]:
        """What of the block is to run; empty where nothing is."""
        now_ms = self._clock.now_ms()
        taken = TakenBlock(
            delivery=delivery,
            reply_to=block.reply_to,
            signature=block.signature,
            queue_ms=now_ms - block.sent_ms,
            taken=time.perf_counter(),
            unanswered=len(block.items),
        )
        try:
            if self._model.preparation.is_needed(block.tensors):
                pieces = self._prepared_items(taken, block, outbox)
            else:
                inputs = {name: tensor.to_numpy() for name, tensor in block.tensors.items()}
                pieces = [self._piece(taken, block.items, inputs)]
        except Exception as error:  # whatever its data led to, it must not end the worker
            _log.exception("a block cannot be prepared", extra={"model": self._model.announcement.name})
            self._refuse(taken, [(item, self._failure(error)) for item in block.items], outbox)
            return []
        return pieces

    def _prepared_items(self, taken: TakenBlock, block: RequestBlock, outbox: _Outbox) -> list[Piece]:
        """A piece for each item where lengths vary, else one for all that can be prepared; the others are answered."""
        counts = [item.rows for item in block.items]
        columns = {name: split_rows(tensor, counts) for name, tensor in block.tensors.items()}
        items, parts = [], []
        refused: list[tuple[RequestItem, MillraceError]] = []
        for i, item in enumerate(block.items):
            if self._is_unwanted(taken, item):
                self._finish(taken, 1, outbox)
                continue
            try:
                parts.append(self._prepared_rows({name: column[i] for name, column in columns.items()}, item.rows))
                items.append(item)
            except Exception as error:  # whatever its data led to, it is no matter of its neighbours
                if not isinstance(error, InvalidRequest):
                    _log.exception("a request cannot be prepared", extra={"request_id": item.trace})
                refused.append((item, self._failure(error)))
        self._refuse(taken, refused, outbox)
        if self._model.preparation.pads:
            return [self._piece(taken, (item,), part) for item, part in zip(items, parts, strict=True)]
        return [self._piece(taken, tuple(items), self._joined(parts))] if items else []

    def _prepared_rows(self, tensors: dict[str, Tensor], rows: int) -> Arrays:
        arrays = {name: tensor.to_numpy() for name, tensor in tensors.items()}
        before = self._model.preparation.before
        return self._joined([before({name: array[i : i + 1] for name, array in arrays.items()}) for i in range(rows)])

    def _joined(self, parts: Sequence[Arrays]) -> Arrays:
        return {name: self._model.preparation.join(name, [part[name] for part in parts]) for name in parts[0]}

    def _piece(self, taken: TakenBlock, items: tuple[RequestItem, ...], inputs: Arrays) -> Piece:
        return Piece(
            block=taken,
            items=items,
            inputs=inputs,
            rows=sum(item.rows for item in items),
            length=self._model.preparation.length(inputs),
            due_ms=min(item.deadline_ms for item in items),
        )

    def _is_unwanted(self, block: TakenBlock, item: RequestItem) -> bool:
        """Whether nobody waits for the item any more."""
        return item.deadline_ms <= self._clock.now_ms() or (block.reply_to, item.id) in self._cancelled

    def _wanted(self, pieces: Iterable[Piece], outbox: _Outbox) -> list[Piece]:
        """The pieces less the items that nobody waits for any more."""
        now_ms, wanted = self._clock.now_ms(), []
        for piece in pieces:
            left: Piece | None = piece
            if self._cancelled or piece.due_ms <= now_ms:
                left = piece.without(partial(self._is_unwanted, piece.block))
                self._finish(piece.block, len(piece.items) - (len(left.items) if left else 0), outbox)
            if left:
                wanted.append(left)
        return wanted

    def _refuse(self, block: TakenBlock, refused: Sequence[tuple[RequestItem, MillraceError]], outbox: _Outbox) -> None:
        if refused:
            outbox.replies.append(self._reply(block.reply_to, [_error_item(item, error) for item, error in refused]))
            self._finish(block, len(refused), outbox)

    def _finish(self, block: TakenBlock, items: int, outbox: _Outbox) -> None:
        """So many more of the block's items are answered or dropped; the last ones finish it."""
        block.unanswered -= items
        if items and not block.unanswered:
            outbox.finished.append(block.delivery)

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
        pieces = self._wanted(batch.pieces, outbox)
        if not pieces:
            return
        rows = sum(piece.rows for piece in pieces)
        try:
            inputs = self._joined([piece.inputs for piece in pieces])
            started = time.perf_counter()
            outputs = self._computed(pieces, inputs, rows)
            compute_ms = (time.perf_counter() - started) * 1000
            replies = [
                self._reply(reply_to, items, {name: array[part] for name, array in outputs.items()}, compute_ms, rows)
                for reply_to, items, part in _by_caller(pieces, started)
            ]
        except (DeadlineExceeded, Unavailable) as error:  # of what the model depends on, and so of no one request
            _log.warning("a batch could not be run", extra={**self._about(pieces), "reason": str(error)})
            for piece in pieces:
                self._refuse(piece.block, [(item, error) for item in piece.items], outbox)
            return
        except Exception:
            _log.warning("a batch failed; its requests run one by one", extra=self._about(pieces), exc_info=True)
            for piece in pieces:
                for single in piece.singly():
                    self._run_alone(single, outbox)
            return
        outbox.replies += replies
        for piece in pieces:
            self._finish(piece.block, len(piece.items), outbox)

    def _computed(self, pieces: Sequence[Piece], inputs: Arrays, rows: int) -> Arrays:
        self._last_deadline_ms = max(item.deadline_ms for piece in pieces for item in piece.items)
        try:
            return self._model.run(pieces[0].block.signature, inputs, rows)
        finally:
            self._last_deadline_ms = math.inf

    def _run_suspects(self, pieces: Sequence[Piece], outbox: _Outbox) -> _Outbox:
        """Run what is left of a block that was delivered before, item by item, every answer delivered before the next.

        Every other time the items run from the last to the first: then even one that ends the process leaves only
        itself without an answer.
        """
        singles = [single for piece in pieces for single in piece.singly()]
        if pieces and pieces[0].block.delivery.deliveries % 2 == 0:
            singles.reverse()
        for single in singles:
            outbox = self._sent(outbox)
            self._run_alone(single, outbox)
        return outbox

    def _run_alone(self, single: Piece, outbox: _Outbox) -> None:
        """Run a piece of one item, so that if it fails it takes no other with it."""
        for piece in self._wanted([single], outbox):
            outbox.replies.append(self._answer_alone(piece))
            self._finish(piece.block, 1, outbox)

    def _answer_alone(self, piece: Piece) -> Reply:
        started, (item,) = time.perf_counter(), piece.items
        try:
            outputs = self._computed([piece], piece.inputs, piece.rows)
            compute_ms = (time.perf_counter() - started) * 1000
            items = [_item(item, piece.block, started)]
            return self._reply(piece.block.reply_to, items, outputs, compute_ms, piece.rows)
        except Exception as error:
            _log.exception("a request failed in its model", extra=self._about([piece]))
            return self._reply(piece.block.reply_to, [_error_item(item, self._failure(error))])

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

    def _about(self, pieces: Iterable[Piece]) -> dict[str, object]:
        requests = [item.trace for piece in pieces for item in piece.items]
        return {"model": self._model.announcement.name, "request_id": requests[0] if len(requests) == 1 else requests}


def _item(item: RequestItem, block: TakenBlock, started: float) -> ReplyItem:
    return ReplyItem(item.id, item.rows, block.queue_ms, (started - block.taken) * 1000)


def _error_item(item: RequestItem, error: MillraceError) -> ReplyItem:
    return ReplyItem(item.id, 0, 0.0, 0.0, error.code, str(error))


def _by_caller(pieces: Sequence[Piece], started: float) -> Iterator[tuple[str, list[ReplyItem], slice]]:
    """For each API process where its replies go, its items and its rows of the batch."""
    row = 0
    for reply_to, group in itertools.groupby(pieces, lambda piece: piece.block.reply_to):
        theirs = list(group)
        first, row = row, row + sum(piece.rows for piece in theirs)
        yield (
            reply_to,
            [_item(item, piece.block, started) for piece in theirs for item in piece.items],
            slice(first, row),
        )
