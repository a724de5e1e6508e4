"""One thread's life: take blocks, run batches, reply, and in the same round trip take the next.

    take ──► open ──► prepare ──► form batches ──► run ──► outbox ──► take …
     │         │         │             ▲             │ fails
     │         │         │             │             └─ each item alone; what fails alone is answered with its error
     │         └─────────┴─────────────┴─ expired or cancelled: dropped
     ├─ claimed blocks of a process that died run item by item; after MAX_DELIVERIES they go to the dead letters
     └─ bulk runs item by item, and before each next item whatever came of callers' runs

A worker has several such threads for each model (`instances`): while one computes, another reads and prepares.

    taking.py   the exchange with the queue        preparing.py  from tensors to pieces
    block.py    a block until it is finished       batcher.py    which pieces run together
    outbox.py   what the next exchange delivers    running.py    batches, and requests alone
    status.py   what the instance is doing         suspects.py   blocks that were delivered before
    bulk.py     background work, between callers'  turns.py      which instances may have some in hand
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from millrace.broker.base import BrokerClock, ConsumerLink, Delivery
from millrace.protocol.messages import RequestBlock
from worker.loading.model import Model
from worker.running.batcher import form_batches
from worker.running.block import Blocks
from worker.running.bulk import Bulk
from worker.running.cores import Spent, ThreadTimes
from worker.running.outbox import Outbox
from worker.running.piece import Piece, TakenBlock
from worker.running.preparing import Preparer
from worker.running.quarantine import Quarantine
from worker.running.runner import Runner
from worker.running.status import InstanceStatus
from worker.running.suspects import Suspects
from worker.running.taking import Taking
from worker.running.turns import BulkTurns


class Instance:
    """One thread's loop over one model's queue. `run` it in a thread; `drain` from any other.

    `status` says what it is doing; `quarantine` is that of its process. `times` and
    `turns`: see `Bulk`.
    """

    def __init__(
        self,
        model: Model,
        link: ConsumerLink,
        *,
        worker: str,
        clock: BrokerClock,
        lease_ms: int,
        status: InstanceStatus | None = None,
        quarantine: Quarantine | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        times: Callable[[], Spent] | None = None,
        turns: BulkTurns | None = None,
    ) -> None:
        name, outbox = model.announcement.name, Outbox(worker)
        self._model = model
        self._draining = threading.Event()
        self._quarantine = quarantine or Quarantine()
        self._status = status or InstanceStatus()
        self._taking = Taking(
            model,
            link,
            outbox,
            self._draining,
            lease_ms=lease_ms,
            status=self._status,
            monotonic=monotonic,
        )
        self._blocks = Blocks(name, link, outbox, clock=clock, monotonic=monotonic)
        self._preparer = Preparer(model, self._blocks, self._status)
        self._runner = Runner(model, self._blocks, outbox, status=self._status, monotonic=monotonic)
        self._times = ThreadTimes()
        self._turns = turns or BulkTurns(monotonic=monotonic)
        self._bulk = Bulk(
            model,
            self._blocks,
            self._preparer,
            self._runner,
            self._serve_callers,
            quarantine=self._quarantine,
            turns=self._turns,
            monotonic=monotonic,
            times=times or self._times,
        )
        self._suspects = Suspects(
            model,
            self._blocks,
            self._preparer,
            self._runner,
            self._taking.deliver,
            quarantine=self._quarantine,
            status=self._status,
        )

    def drain(self) -> None:
        """Let `run` return once the batches in hand are answered."""
        self._draining.set()

    def run(self) -> None:
        """Serve until `drain`. The queue's being out of reach is waited out; any other error is raised."""
        while not self._draining.is_set():
            self._take_and_serve()
        self._taking.close()
        self._times.close()
        self._status.idle()

    def _take_and_serve(self) -> None:
        has_turn = self._turns.begin()
        try:
            deliveries = self._taking.take(takes_bulk=has_turn)
            if has_turn and not any(delivery.is_bulk for delivery in deliveries):
                has_turn = False
                self._turns.end()
            if deliveries:
                self._serve(deliveries)
        finally:
            if has_turn:
                self._turns.end()

    def _serve(self, deliveries: Iterable[Delivery]) -> None:
        """Answer the deliveries; the last answers are left in the outbox."""
        fresh: list[tuple[TakenBlock, RequestBlock]] = []
        suspects: list[tuple[TakenBlock, RequestBlock]] = []
        bulk: list[tuple[TakenBlock, RequestBlock]] = []
        for taken, block in self._blocks.opened(deliveries):
            of_its_kind = bulk if taken.delivery.is_bulk else fresh
            (of_its_kind if taken.delivery.deliveries == 1 else suspects).append((taken, block))
        if fresh:
            self._turns.callers_came()
            with self._quarantine.together:
                self._run_batches([piece for taken, block in fresh for piece in self._preparer.pieces(taken, block)])
        for taken, block in suspects:
            self._suspects.run(taken, block)
        for taken, block in bulk:
            self._bulk.run(taken, block)

    def _serve_callers(self, wait_ms: int) -> None:
        """Answer what callers sent, or send within `wait_ms`, until nothing of theirs waits."""
        while not self._draining.is_set() and (deliveries := self._taking.take_urgent(wait_ms)):
            self._serve(deliveries)
            wait_ms = 0

    def _run_batches(self, pieces: Sequence[Piece]) -> None:
        preparation = self._model.preparation
        for batch in form_batches(pieces, self._model.batching.max_batch_size, preparation.may_pad, self._model.cost):
            self._taking.deliver()
            self._runner.run(batch)
