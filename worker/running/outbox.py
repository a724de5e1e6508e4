"""What an instance has to say to the queue: replies, and the blocks that they finish."""

from collections.abc import Sequence

from millrace.broker.base import Delivery, Reply
from millrace.protocol import codec
from millrace.protocol.errors import InvalidRequest, MillraceError, ModelFailed
from millrace.protocol.messages import ReplyBlock, ReplyItem, RequestItem
from millrace.protocol.tensors import Tensor
from worker.backends.base import Arrays


class Outbox:
    """Replies and finished blocks that the next exchange delivers. `worker` is the id that replies carry."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self.replies: list[Reply] = []
        self.finished: list[Delivery] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to deliver."""
        return not self.replies and not self.finished

    def clear(self) -> None:
        """Forget what was delivered."""
        self.replies, self.finished = [], []

    def refuse(self, reply_to: str, refused: Sequence[tuple[RequestItem, MillraceError]]) -> None:
        """Answer each item with its error."""
        items = [ReplyItem(item.id, 0, 0.0, 0.0, error.code, str(error)) for item, error in refused]
        self.replies.append(self.encoded(reply_to, items))

    def encoded(
        self,
        reply_to: str,
        items: Sequence[ReplyItem],
        outputs: Arrays | None = None,
        compute_ms: float = 0.0,
        rows: int = 0,
    ) -> Reply:
        """The items' answers with their rows of `outputs`, out of a batch of `rows` rows that ran for `compute_ms`.

        Raises `ModelFailed` for an output that cannot travel.
        """
        try:
            tensors = {name: Tensor.from_numpy(array) for name, array in (outputs or {}).items()}
        except InvalidRequest as error:  # which blames whoever made the array
            raise ModelFailed(f"an output cannot be sent: {error}") from error
        block = ReplyBlock(
            worker=self._worker, compute_ms=compute_ms, batch_rows=rows, items=tuple(items), tensors=tensors
        )
        return Reply(reply_to, codec.encode_reply(block))
