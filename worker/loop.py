"""One thread's life: take blocks, run batches, reply, and in the same round trip take the next.

    take ──► open ──► prepare ──► form batches ──► run ──► outbox ──► take …
     │         │         │             ▲             │ fails
     │         │         │             │             └─ each item alone; what fails alone is answered with its error
     │         └─────────┴─────────────┴─ expired or cancelled: dropped
     └─ claimed blocks of a worker that died run item by item; after MAX_DELIVERIES they go to the dead letters

A worker has several such threads for each model (`instances`): while one computes, another reads and prepares.

    taking.py   the exchange with the queue        preparing.py  from tensors to pieces
    block.py    a block until it is finished       batcher.py    which pieces run together
    outbox.py   what the next exchange delivers    running.py    batches, and requests alone
"""

import threading
import time
from collections.abc import Callable, Iterable

from millrace.broker.base import BrokerClock, ConsumerLink, Delivery
from worker.batcher import form_batches
from worker.block import Blocks
from worker.claiming import Claiming
from worker.model import Model
from worker.outbox import Outbox
from worker.piece import Piece
from worker.preparing import Preparer
from worker.running import Runner
from worker.taking import Taking


class Instance:
    """One thread's loop over one model's queue. `run` it in a thread; `drain` from any other."""

    def __init__(
        self,
        model: Model,
        link: ConsumerLink,
        *,
        worker: str,
        clock: BrokerClock,
        lease_ms: int,
        claiming: Claiming | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        name, outbox = model.announcement.name, Outbox(worker)
        self._model = model
        self._lease_ms = lease_ms
        self._draining = threading.Event()
        self._taking = Taking(
            model,
            link,
            outbox,
            self._draining,
            lease_ms=lease_ms,
            claiming=claiming or Claiming(monotonic),
            monotonic=monotonic,
        )
        self._blocks = Blocks(name, link, outbox, clock=clock, monotonic=monotonic)
        self._preparer = Preparer(model, self._blocks)
        self._runner = Runner(model, self._blocks, outbox, self._taking.deliver, clock=clock, monotonic=monotonic)

    @property
    def holding(self) -> tuple[Delivery, ...]:
        """The deliveries in hand, whose leases the worker's heartbeat renews."""
        return self._taking.holding

    @property
    def is_stuck(self) -> bool:
        """Whether a run goes on although all its callers were told, a lease ago, that there is no answer in time."""
        return self._runner.overdue_ms > self._lease_ms

    def drain(self) -> None:
        """Let `run` return once the batches in hand are answered."""
        self._draining.set()

    def run(self) -> None:
        """Serve until `drain`. The queue's being out of reach is waited out; any other error is raised."""
        while not self._draining.is_set():
            if deliveries := self._taking.take():
                self._serve(deliveries)
            self._taking.leave_turn()
        self._taking.close()

    def _serve(self, deliveries: Iterable[Delivery]) -> None:
        """Answer the deliveries; the last answers are left in the outbox."""
        pieces: list[Piece] = []
        suspects: list[list[Piece]] = []
        for taken, block in self._blocks.opened(deliveries):
            prepared = self._preparer.pieces(taken, block)
            if taken.delivery.deliveries == 1:
                pieces += prepared
            else:
                suspects.append(prepared)
        preparation = self._model.preparation
        for batch in form_batches(pieces, self._model.batching.max_batch_size, preparation.may_pad, self._model.cost):
            self._taking.deliver()
            self._runner.run(batch)
        for of_one_block in suspects:
            self._runner.run_suspects(of_one_block)
