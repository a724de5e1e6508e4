"""Blocks that were delivered before: perhaps one of their items ended the process that had them.

Their items are prepared and run one by one, while nothing else works in this process, each answer delivered before the
next. Every other time they run from the last to the first: then even one that ends the machine leaves only itself
without an answer.
"""

from collections.abc import Callable

from millrace.protocol.messages import RequestBlock
from worker.loading.model import Model
from worker.running.block import Blocks
from worker.running.piece import TakenBlock
from worker.running.preparing import Preparer
from worker.running.quarantine import Quarantine
from worker.running.runner import Runner
from worker.running.status import InstanceStatus


class Suspects:
    """Runs suspects for one instance. `deliver` delivers what was answered."""

    def __init__(
        self,
        model: Model,
        blocks: Blocks,
        preparer: Preparer,
        runner: Runner,
        deliver: Callable[[], None],
        *,
        quarantine: Quarantine,
        status: InstanceStatus,
    ) -> None:
        self._model = model
        self._blocks = blocks
        self._preparer = preparer
        self._runner = runner
        self._deliver = deliver
        self._quarantine = quarantine
        self._status = status

    def run(self, taken: TakenBlock, block: RequestBlock) -> None:
        """Answer every item of the block, or drop it where nobody waits for it any more."""
        singles = self._blocks.apart(taken, block, self._model.failure)
        for single in singles if taken.delivery.deliveries % 2 else reversed(singles):
            self._deliver()
            self._run_alone(taken, single)

    def _run_alone(self, taken: TakenBlock, single: RequestBlock) -> None:
        (item,) = single.items
        with self._quarantine.alone:
            if self._blocks.is_abandoned(taken, item):
                self._blocks.finish(taken, 1)
                return
            self._status.work_alone(taken.reply_to, item.id, item.deadline_ms, taken.delivery.deliveries)
            for piece in self._preparer.pieces(taken, single):
                self._runner.run_alone(piece)
            self._status.pause()
