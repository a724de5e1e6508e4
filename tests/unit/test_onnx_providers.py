"""What a session of ONNX Runtime on a GPU would be made with: seen without one."""

import pytest

from worker.backends.base import Device, LoadError
from worker.backends.onnx import providers


def test_a_gpu_has_its_number_its_limit_and_no_search_for_convolutions() -> None:
    assert providers.cuda_options(Device("cuda", gpu=1, memory_mb=500, tf32=False)) == {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
        "gpu_mem_limit": "500000000",
    }
    first = providers.cuda_options(Device("cuda"))
    assert (first["device_id"], first["use_tf32"], "gpu_mem_limit" in first) == ("0", "1", False)


def test_a_cpu_has_one_provider() -> None:
    assert providers.providers(Device("cpu")) == ["CPUExecutionProvider"]


def test_a_session_that_fell_back_to_the_cpu_is_refused() -> None:
    class OnCpu:
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    providers.check_session(OnCpu(), Device("cpu"))
    with pytest.raises(LoadError, match=r"cuda:1 was asked for, and ONNX Runtime .* cannot use it: .*cuDNN 9"):
        providers.check_session(OnCpu(), Device("cuda", gpu=1))
