"""Background work between callers' requests.

An item of a bulk block is what runs at once: whoever sent it made it small enough. Between two items, callers' requests
that came meanwhile are answered, so that nobody waits for more than one of them. Items never share a run with others:
the same rows always run together, whatever else happens, and so a job's result is the same to the last bit.

While callers use the model, bulk gives way to whatever serves them on the same machine, too. Where an item had to wait
for a processor, a rest follows, in which callers' requests are let in: as many times as long as it waited, as it waited
longer than it ran. So a machine with idle processors sees no rests, and one that others keep busy sees little of bulk.
"""

import time
from collections.abc import Callable

from millrace.protocol.messages import RequestBlock
from worker.loading.model import Model
from worker.running.block import Blocks
from worker.running.cores import Spent
from worker.running.piece import TakenBlock
from worker.running.preparing import Preparer
from worker.running.quarantine import Quarantine
from worker.running.runner import Runner
from worker.running.turns import BulkTurns

_LOOK_EVERY_S = 0.004  # at the queue, while no callers use the model
_SHORTEST_RUN_S, _LONGEST_REST_S = 0.0001, 0.05


class Bulk:
    """Runs blocks of bulk for one instance.

    `serve_callers` answers what waits of callers, and what comes within so many milliseconds. `times` are this
    thread's, `turns` those of all instances.
    """

    def __init__(
        self,
        model: Model,
        blocks: Blocks,
        preparer: Preparer,
        runner: Runner,
        serve_callers: Callable[[int], None],
        *,
        quarantine: Quarantine,
        turns: BulkTurns,
        monotonic: Callable[[], float] = time.monotonic,
        times: Callable[[], Spent],
    ) -> None:
        self._model = model
        self._blocks = blocks
        self._preparer = preparer
        self._runner = runner
        self._serve_callers = serve_callers
        self._quarantine = quarantine
        self._monotonic = monotonic
        self._times = times
        self._turns = turns
        self._rest_s = 0.0

    def run(self, taken: TakenBlock, block: RequestBlock) -> None:
        """Answer every item of the block, or drop it where nobody waits for it any more."""
        singles = self._blocks.apart(taken, block, self._model.failure)
        looked_s = self._monotonic()
        for number, single in enumerate(singles):
            now_s = self._monotonic()
            has_callers = self._turns.has_callers
            if (number or self._rest_s) and (has_callers or now_s - looked_s >= _LOOK_EVERY_S):
                self._let_callers_in(has_callers)
                looked_s = self._monotonic()
            self._blocks.bulk_begins()
            before = self._times()
            with self._quarantine.together:
                for piece in self._preparer.pieces(taken, single):
                    self._runner.run_alone(piece)
            after = self._times()
            ran_s = max(_SHORTEST_RUN_S, after.ran_s - before.ran_s)
            waited_s = after.waited_s - before.waited_s
            self._rest_s = min(_LONGEST_REST_S, waited_s * waited_s / ran_s)

    def _let_callers_in(self, has_callers: bool) -> None:
        rest_ms = round(self._rest_s * 1000) if has_callers else 0
        self._serve_callers(rest_ms)
