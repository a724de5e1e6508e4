"""Background work between callers' requests.

An item of a bulk block is what runs at once: whoever sent it made it small enough. Between two items, callers' requests
that came meanwhile are answered, so that nobody waits for more than one of them. Items never share a run with others:
the same rows always run together, whatever else happens, and so a job's result is the same to the last bit.
"""

from collections.abc import Callable

from millrace.protocol.messages import RequestBlock
from worker.loading.model import Model
from worker.running.block import Blocks, singly
from worker.running.piece import TakenBlock
from worker.running.preparing import Preparer
from worker.running.quarantine import Quarantine
from worker.running.runner import Runner


class Bulk:
    """Runs blocks of bulk for one instance. `serve_callers` answers what waits of callers."""

    def __init__(
        self,
        model: Model,
        blocks: Blocks,
        preparer: Preparer,
        runner: Runner,
        serve_callers: Callable[[], None],
        *,
        quarantine: Quarantine,
    ) -> None:
        self._model = model
        self._blocks = blocks
        self._preparer = preparer
        self._runner = runner
        self._serve_callers = serve_callers
        self._quarantine = quarantine

    def run(self, taken: TakenBlock, block: RequestBlock) -> None:
        """Answer every item of the block, or drop it where nobody waits for it any more."""
        try:
            singles = singly(block)
        except Exception as error:  # its tensors do not hold what they say
            self._blocks.refuse(taken, [(item, self._model.failure(error)) for item in block.items])
            return
        for number, single in enumerate(singles):
            if number:
                self._serve_callers()
            with self._quarantine.together:
                for piece in self._preparer.pieces(taken, single):
                    self._runner.run_alone(piece)
