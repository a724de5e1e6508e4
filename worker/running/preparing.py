"""From a block's tensors to pieces that can run: what a request's data do wrong is its own error."""

import logging
from collections.abc import Sequence

from millrace.protocol.errors import InvalidRequest, MillraceError
from millrace.protocol.messages import RequestBlock, RequestItem, request_id_of
from worker.backends.base import Arrays
from worker.loading.model import Model
from worker.running.block import Blocks
from worker.running.piece import Piece, TakenBlock
from worker.running.status import InstanceStatus

_log = logging.getLogger(__name__)


class Preparer:
    """Prepares blocks for one model. Items that cannot be prepared are refused, abandoned ones dropped.

    What takes more than to read tensors where they lie counts as work in the instance's `status`.
    """

    def __init__(self, model: Model, blocks: Blocks, status: InstanceStatus) -> None:
        self._model = model
        self._blocks = blocks
        self._status = status

    def pieces(self, taken: TakenBlock, block: RequestBlock) -> list[Piece]:
        """What is to run of the block."""
        try:
            if self._model.preparation.is_needed(block.tensors):
                if not taken.has_rows and self._model.batching.max_batch_size:
                    raise InvalidRequest(f"the inputs have other shapes than model '{block.model}' can prepare")
                return self._worked_on(taken, block)
            piece = self._piece(taken, block.items, {name: t.to_numpy() for name, t in block.tensors.items()})
            return [piece] if self._runs_items_together else piece.singly()
        except BaseException as error:  # whatever its data led to, it must not end the worker
            if not isinstance(error, InvalidRequest):
                _log.exception("a block cannot be prepared", extra={"model": self._model.announcement.name})
            self._blocks.refuse(taken, [(item, self._model.failure(error)) for item in block.items])
            return []

    @property
    def _runs_items_together(self) -> bool:
        """Whether a block's items may run together: whoever made the block may have known the model in another way."""
        return self._model.batching.max_batch_size > 1

    def _worked_on(self, taken: TakenBlock, block: RequestBlock) -> list[Piece]:
        if len(block.items) == 1:
            item = block.items[0]
            self._status.work_alone(block.reply_to, item.id, item.deadline_ms, taken.delivery.deliveries)
        else:
            self._status.work(max(item.deadline_ms for item in block.items))
        try:
            return self._prepared_items(taken, block)
        finally:
            self._status.pause()

    def _prepared_items(self, taken: TakenBlock, block: RequestBlock) -> list[Piece]:
        """A piece for each item where lengths vary, else one for all that can be prepared."""
        self._model.preparation.check(block.tensors)
        arrays = {name: tensor.to_numpy() for name, tensor in block.tensors.items()}  # which walks all strings once
        arrays = self._model.preparation.ahead(arrays)
        items, parts, end = [], [], 0
        refused: list[tuple[RequestItem, MillraceError]] = []
        for item in block.items:
            first, end = end, end + item.rows
            try:
                part = self._prepared_rows(taken, item, arrays, range(first, end))
            except BaseException as error:  # whatever its data led to, it is no matter of its neighbours
                if not isinstance(error, InvalidRequest):
                    _log.exception("a request cannot be prepared", extra={"request_id": request_id_of(item.trace)})
                refused.append((item, self._model.failure(error)))
                continue
            if part is None:
                self._blocks.finish(taken, 1)
            else:
                parts.append(part)
                items.append(item)
        self._blocks.refuse(taken, refused)
        if self._model.preparation.pads or not self._runs_items_together:
            return [self._piece(taken, (item,), part) for item, part in zip(items, parts, strict=True)]
        return [self._piece(taken, tuple(items), self._model.preparation.joined(parts))] if items else []

    def _prepared_rows(self, taken: TakenBlock, item: RequestItem, arrays: Arrays, rows: range) -> Arrays | None:
        """The item's rows; None as soon as nobody waits for them any more: a row may be a large image."""
        preparation, prepared = self._model.preparation, []
        for row in rows:
            if self._blocks.is_abandoned(taken, item):
                return None
            try:
                prepared.append(preparation.before({name: array[row : row + 1] for name, array in arrays.items()}))
            except InvalidRequest as error:
                if item.rows == 1:
                    raise
                raise InvalidRequest(f"row {row - rows.start} of {item.rows}, from 0: {error}") from None
        return preparation.joined(prepared)

    def _piece(self, taken: TakenBlock, items: Sequence[RequestItem], inputs: Arrays) -> Piece:
        return Piece(
            block=taken,
            items=tuple(items),
            inputs=inputs,
            rows=sum(item.rows for item in items),
            length=self._model.preparation.length(inputs),
            due_ms=min(item.deadline_ms for item in items),
        )
