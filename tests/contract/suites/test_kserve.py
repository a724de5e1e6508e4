"""KServe's own Python client; beside it, `test_kserve.py` above acts out what it sends."""

from pathlib import Path

from tests.contract.suites import running, sources
from tests.support.running import Stack

pytestmark = sources.needs(sources.KSERVE)


def test_the_sdk(stack: Stack, tmp_path: Path) -> None:
    test = Path(__file__).with_name("kserve_sdk.py")
    where = {"STACK_URL": stack.url, "STACK_GRPC": stack.grpc, "PYTHONPATH": ""}
    running.check(running.alone(sources.place(sources.KSERVE), tmp_path, [str(test)], where), {})
