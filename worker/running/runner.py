"""Runs: batches, and the requests of batches that fail, each alone."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from millrace.broker.base import Reply
from millrace.protocol.errors import DeadlineExceeded, InvalidRequest, Unavailable
from millrace.protocol.messages import ReplyItem, RequestItem, request_id_of
from worker.backends.base import Arrays, RowErrors
from worker.loading.model import Model
from worker.loading.trial import cut
from worker.running.batcher import Batch
from worker.running.block import Blocks
from worker.running.current import CurrentRequests, current, joined
from worker.running.outbox import Outbox
from worker.running.piece import Piece, TakenBlock
from worker.running.status import InstanceStatus

_log = logging.getLogger(__name__)


class Runner:
    """Runs one model for one instance, and puts the answers into the outbox."""

    def __init__(
        self,
        model: Model,
        blocks: Blocks,
        outbox: Outbox,
        *,
        status: InstanceStatus,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._blocks = blocks
        self._outbox = outbox
        self._status = status
        self._monotonic = monotonic

    def run(self, batch: Batch) -> None:
        """Run the batch; if it fails, its requests one by one."""
        pieces = self._blocks.without_abandoned(batch.pieces)
        if not pieces:
            return
        try:
            replies = self._answers(pieces)
        except (DeadlineExceeded, Unavailable) as error:  # of what the model depends on, and so of no one request
            _log.warning("a batch could not be run", extra={**self._about(pieces), "reason": str(error)})
            for piece in pieces:
                self._blocks.refuse(piece.block, [(item, error) for item in piece.items])
        except RowErrors as error:
            self._run_others(pieces, error)
        except Exception as error:
            self._run_apart(pieces, error)
        else:
            self._outbox.replies += replies
            for piece in pieces:
                self._blocks.finish(piece.block, len(piece.items))

    def _run_others(self, pieces: Sequence[Piece], failed: RowErrors) -> None:
        """Refuse the requests that have a bad row, and run the others together."""
        others, first = [], 0
        for single in (single for piece in pieces for single in piece.singly()):
            end = first + single.rows
            if bad := [row for row in failed.errors if first <= row < end]:
                self._refuse(single, failed.errors[bad[0]])
            else:
                others.append(single)
            first = end
        if not any(0 <= row < first for row in failed.errors):
            self._run_apart(pieces, failed)
        elif others:
            self.run(Batch(others, sum(piece.rows for piece in others)))

    def _run_apart(self, pieces: Sequence[Piece], error: Exception) -> None:
        """Run the requests of a batch that failed, one by one; the only request of one has failed alone."""
        singles = [single for piece in pieces for single in piece.singly()]
        if len(singles) == 1:
            self._refuse(singles[0], error)
            return
        if not isinstance(error, InvalidRequest):
            _log.warning("a batch failed; its requests run one by one", extra=self._about(pieces), exc_info=error)
        for single in singles:
            self.run_alone(single)

    def _refuse(self, single: Piece, error: Exception) -> None:
        """Answer a piece of one item with its error, which is logged with a trace unless the caller is to blame."""
        about = self._about([single])
        if isinstance(error, InvalidRequest):
            _log.info("a request was refused", extra={**about, "reason": str(error)})
        else:
            _log.error("a request failed in its model", extra=about, exc_info=error)
        self._blocks.refuse(single.block, [(single.items[0], self._model.failure(error))])

    def run_alone(self, single: Piece) -> None:
        """Run a piece of one item, so that if it fails it takes no other with it."""
        self.run(Batch([single], single.rows))

    def _answers(self, pieces: Sequence[Piece]) -> list[Reply]:
        """Replies to each API process that has requests in the batch: one, or one for each length of its answers."""
        rows = sum(piece.rows for piece in pieces)
        inputs = self._model.joined([piece.inputs for piece in pieces], has_rows=pieces[0].block.has_rows)
        started = self._monotonic()
        outputs = self._computed(pieces, inputs, rows)
        compute_ms = (self._monotonic() - started) * 1000
        axes = self._model.length_axes.get(pieces[0].block.signature, {})
        return [
            self._outbox.encoded(reply_to, items, _part(outputs, rows_of, axes, length), compute_ms, rows)
            for reply_to, items, rows_of, length in _grouped(pieces, started, by_length=bool(axes))
        ]

    def _computed(self, pieces: Sequence[Piece], inputs: Arrays, rows: int) -> Arrays:
        self._say_what_runs(pieces)
        if self._model.is_told_requests:
            current.set(_requests_of(pieces))
        try:
            block = pieces[0].block
            if block.has_rows == self._model.has_rows:
                return self._model.run(block.signature, inputs, rows)
            return self._model.run(block.signature, inputs, rows, has_rows=block.has_rows)
        finally:
            self._status.pause()

    def _say_what_runs(self, pieces: Sequence[Piece]) -> None:
        block = pieces[0].block
        if len(pieces) == 1 and len(pieces[0].items) == 1:
            item = pieces[0].items[0]
            self._status.work_alone(block.reply_to, item.id, item.deadline_ms, block.delivery.deliveries)
        else:
            self._status.work(max(item.deadline_ms for piece in pieces for item in piece.items))

    def _about(self, pieces: Iterable[Piece]) -> dict[str, object]:
        requests = [request_id_of(item.trace) for piece in pieces for item in piece.items]
        return {"model": self._model.announcement.name, "request_id": requests[0] if len(requests) == 1 else requests}


def _requests_of(pieces: Sequence[Piece]) -> CurrentRequests:
    return CurrentRequests(
        deadline_ms=max(item.deadline_ms for piece in pieces for item in piece.items),
        trace=pieces[0].items[0].trace,
        via=joined(piece.block.via for piece in pieces),
    )


def _item(item: RequestItem, block: TakenBlock, started: float) -> ReplyItem:
    return ReplyItem(item.id, item.rows, block.queue_ms, (started - block.taken) * 1000)


def _grouped(
    pieces: Sequence[Piece], started: float, *, by_length: bool
) -> Iterator[tuple[str, list[ReplyItem], slice, int]]:
    """What one reply holds: where it goes, its items, their rows of the batch and, `by_length`, their one length."""
    row = 0
    for (reply_to, length), group in itertools.groupby(
        pieces, lambda piece: (piece.block.reply_to, piece.length if by_length else 0)
    ):
        theirs = list(group)
        first, row = row, row + sum(piece.rows for piece in theirs)
        items = [_item(item, piece.block, started) for piece in theirs for item in piece.items]
        yield reply_to, items, slice(first, row), length


def _part(outputs: Arrays, rows: slice, axes: Mapping[str, int], length: int) -> Arrays:
    """These rows of each output, cut to their length where the output has the padded axis."""
    if not axes:
        return {name: array[rows] for name, array in outputs.items()}
    return {name: cut(array[rows], axes.get(name, 0), length) for name, array in outputs.items()}
