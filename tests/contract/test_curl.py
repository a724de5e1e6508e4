"""The samples of TensorFlow Serving's REST documentation, sent by curl as they stand there."""

import json
import subprocess
from typing import Any

from claims import proves
from running import Stack


def curl(*arguments: str) -> Any:
    run = subprocess.run(["curl", "--silent", "--show-error", *arguments], capture_output=True, check=True, timeout=60)
    return json.loads(run.stdout)


@proves("curl", "predict, row form")
def test_half_plus_two(stack: Stack) -> None:
    answer = curl("-d", '{"instances": [1.0, 2.0, 5.0]}', "-X", "POST", f"{stack.url}/v1/models/half_plus_two:predict")
    assert answer == {"predictions": [2.5, 3.0, 4.5]}
