"""What KServe's own Python client makes of a running stack: unit tests for an interpreter that has `kserve`.

STACK_URL and STACK_GRPC say where it is; it has the models `simple` and `half_plus_two` of the contract tests.
"""

import os
import unittest

import numpy as np
from kserve import (  # type: ignore[import-not-found]
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
)
from kserve.inference_client import RESTConfig  # type: ignore[import-not-found]
from kserve.protocol.infer_type import RequestedOutput  # type: ignore[import-not-found]

URL, GRPC = os.environ["STACK_URL"], os.environ["STACK_GRPC"]
A, B = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)


def asked(*, is_binary: bool = False, outputs: list[RequestedOutput] | None = None) -> InferRequest:
    """A request to `simple`, which adds and subtracts."""
    inputs = [InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    for tensor, values in zip(inputs, (A, B), strict=True):
        tensor.set_data_from_numpy(values, binary_data=is_binary)
    return InferRequest(model_name="simple", request_id="7", infer_inputs=inputs, request_outputs=outputs)


class RestClient(unittest.IsolatedAsyncioTestCase):
    """InferenceRESTClient, version 1 and 2 of the protocol."""

    async def asyncSetUp(self) -> None:
        """A client of each version."""
        self.v1 = InferenceRESTClient(RESTConfig(protocol="v1"))
        self.v2 = InferenceRESTClient(RESTConfig(protocol="v2"))

    async def asyncTearDown(self) -> None:
        """They end."""
        await self.v1.close()
        await self.v2.close()

    async def test_the_server_is_live_and_ready(self) -> None:
        """See the name."""
        assert await self.v1.is_server_live(URL)
        assert await self.v2.is_server_live(URL)
        assert await self.v2.is_server_ready(URL + "/")

    async def test_a_model_is_ready_or_not_there(self) -> None:
        """See the name."""
        for client in (self.v1, self.v2):
            assert await client.is_model_ready(URL, "simple") is True
        assert await self.v2.is_model_ready(URL, "nobody") is False

    async def test_version_1_infers(self) -> None:
        """See the name."""
        answer = await self.v1.infer(URL, {"instances": [1.0, 2.0, 5.0]}, "half_plus_two")
        assert answer["predictions"] == [2.5, 3.0, 4.5]

    async def test_version_2_infers_with_and_without_binary_tensors(self) -> None:
        """See the name."""
        wanted = [RequestedOutput(name, {"binary_data": True}) for name in ("OUTPUT1", "OUTPUT0")]
        for request in (asked(), asked(is_binary=True), asked(is_binary=True, outputs=wanted)):
            answer = await self.v2.infer(URL, request, "simple")
            assert answer.id == "7"
            outputs = {output.name: output.as_numpy() for output in answer.outputs}
            np.testing.assert_array_equal(outputs["OUTPUT0"], A + B)
            np.testing.assert_array_equal(outputs["OUTPUT1"], A - B)

    async def test_errors_have_their_text(self) -> None:
        """See the name."""
        try:
            answer = await self.v2.infer(URL, asked(), "nobody")
        except Exception as error:
            met = str(error)
        else:
            met = f"an answer: {answer}"
        assert "unknown model: 'nobody' is not found" in met


class GrpcClient(unittest.IsolatedAsyncioTestCase):
    """InferenceGRPCClient."""

    async def asyncSetUp(self) -> None:
        """One client."""
        self.client = InferenceGRPCClient(GRPC)

    async def asyncTearDown(self) -> None:
        """It ends."""
        await self.client.close()

    async def test_the_server_and_its_models_are_ready(self) -> None:
        """See the name."""
        assert await self.client.is_server_live()
        assert await self.client.is_server_ready()
        assert await self.client.is_model_ready("simple")

    async def test_it_infers(self) -> None:
        """See the name."""
        for is_binary in (False, True):
            answer = await self.client.infer(asked(is_binary=is_binary))
            outputs = {output.name: output.as_numpy() for output in answer.outputs}
            np.testing.assert_array_equal(outputs["OUTPUT0"], A + B)
