"""What a model written in Python (`model.py` in a version's folder) may import; it need import nothing of ours.

    class Model:
        def load(self, folder: Path, device: str, models: Models) -> None: ...
        def predict(self, text: str) -> Annotated[np.ndarray, "FP32", (2,)]: ...

docs/howto/serve-python-code.md describes all that such a class may declare.
"""

import concurrent.futures
from typing import Any, Protocol

import numpy.typing as npt

from millrace.protocol.errors import DeadlineExceeded as DeadlineExceeded
from millrace.protocol.errors import InvalidRequest as InvalidRequest
from millrace.protocol.errors import MillraceError as MillraceError
from millrace.protocol.errors import RowErrors as RowErrors
from millrace.protocol.errors import Unavailable as Unavailable

Outputs = dict[str, npt.NDArray[Any]]


class CalledModel(Protocol):
    """Another model of the repository, as code calls it. The deadline of the request in work goes along.

    Inputs are arrays, or what makes one, in the shapes that a caller of the API sends, rows first; outputs are arrays,
    BYTES as `bytes` objects. All methods raise the error that the called model answers with: `InvalidRequest` where the
    inputs do not fit it, `Unavailable` where nobody serves it, `DeadlineExceeded`, or another `MillraceError`. An error
    that is not caught becomes the answer to the request in work.
    """

    def predict(self, **inputs: Any) -> Outputs:
        """The outputs; waits for them."""

    async def predict_async(self, **inputs: Any) -> Outputs:
        """The outputs, for code that is `async`."""

    def submit(self, **inputs: Any) -> "concurrent.futures.Future[Outputs]":
        """The outputs in the end, so that several models may be at work at once."""


class Models(Protocol):
    """The other models of the repository. Nothing is asked before a model is called."""

    def __getitem__(self, name: str) -> CalledModel:
        """The version that answers a request which names none."""

    def model(
        self, name: str, *, version: int | None = None, label: str | None = None, signature: str = "serving_default"
    ) -> CalledModel:
        """One version, or the one with a label, and one of its signatures."""
