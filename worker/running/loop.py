"""One thread's life: take blocks, run batches, reply, and in the same round trip take the next.

    take ──► open ──► prepare ──► form batches ──► run ──► outbox ──► take …
     │         │         │             ▲             │ fails
     │         │         │             │             └─ each item alone; what fails alone is answered with its error
     │         └─────────┴─────────────┴─ expired or cancelled: dropped
     ├─ claimed blocks of a process that died run item by item; after MAX_DELIVERIES they go to the dead letters
     └─ an item of bulk shares no run with others: the same rows always run together, and give the same bits

A worker has several such threads for each model (`instances`): while one computes, another reads and prepares. Those
beside the first wait until it does not keep up (`demand.py`).

    taking.py   the exchange with the queue        preparing.py  from tensors to pieces
    block.py    a block until it is finished       batcher.py    which pieces run together
    outbox.py   what the next exchange delivers    running.py    batches, and requests alone
    status.py   what the instance is doing         suspects.py   blocks that were delivered before
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from millrace.broker.base import BrokerClock, ConsumerLink, Delivery
from millrace.protocol.messages import RequestBlock
from worker.loading.model import Model
from worker.running.batcher import form_batches
from worker.running.block import Blocks
from worker.running.demand import Demand
from worker.running.outbox import Outbox
from worker.running.piece import Piece, TakenBlock
from worker.running.preparing import Preparer
from worker.running.quarantine import Quarantine
from worker.running.runner import Runner
from worker.running.status import InstanceStatus
from worker.running.suspects import Suspects
from worker.running.taking import Taking


class Instance:
    """One thread's loop over one model's queue. `run` it in a thread; `drain` from any other.

    `status` says what it is doing, and what it is to take; `quarantine` is that of its process. `demand` is that of its
    version: only the first instance takes when it is low.
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
        demand: Demand | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        name, outbox = model.announcement.name, Outbox(worker)
        self._model = model
        self._draining = threading.Event()
        self._quarantine = quarantine or Quarantine()
        self._status = status or InstanceStatus()
        self._demand = demand or Demand(self._status, monotonic)
        self._monotonic = monotonic
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
            if not self._demand.calls(self._status):
                self._taking.rest()
                if not self._demand.wait(self._status):
                    continue
            if deliveries := self._taking.take():
                began = self._monotonic()
                self._serve(deliveries)
                is_full = sum(delivery.rows for delivery in deliveries) >= self._model.batching.max_batch_size
                self._demand.note(len(deliveries), self._monotonic() - began, is_full=is_full)
        self._taking.close()
        self._status.idle()

    def _serve(self, deliveries: Iterable[Delivery]) -> None:
        """Answer the deliveries; the last answers are left in the outbox."""
        fresh: list[tuple[TakenBlock, RequestBlock]] = []
        suspects: list[tuple[TakenBlock, RequestBlock]] = []
        bulk: list[tuple[TakenBlock, RequestBlock]] = []
        for taken, block in self._blocks.opened(deliveries):
            of_its_kind = bulk if taken.delivery.is_bulk else fresh
            (of_its_kind if taken.delivery.deliveries == 1 else suspects).append((taken, block))
        self._run_together(fresh)
        for taken, block in suspects:
            self._suspects.run(taken, block)
        for taken, block in bulk:
            for number, item in enumerate(self._blocks.apart(taken, block, self._model.failure)):
                if number and (of_callers := self._taking.take_callers()):
                    self._serve(of_callers)
                self._blocks.bulk_begins()
                self._run_together([(taken, item)])

    def _run_together(self, blocks: Sequence[tuple[TakenBlock, RequestBlock]]) -> None:
        if blocks:
            with self._quarantine.together:
                self._run_batches([piece for taken, block in blocks for piece in self._preparer.pieces(taken, block)])

    def _run_batches(self, pieces: Sequence[Piece]) -> None:
        preparation = self._model.preparation
        for batch in form_batches(pieces, self._model.batching.max_batch_size, preparation.may_pad, self._model.cost):
            self._taking.deliver()
            self._runner.run(batch)
