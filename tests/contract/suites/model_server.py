"""Stands in for the program `tensorflow_model_server`: takes its flags, and runs this stack with what they say.

TensorFlow Serving's own test of its server starts it so. What has no effect here is passed over.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Become `millrace up`."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("port", "rest_api_port", "model_name", "model_base_path", "model_config_file"):
        parser.add_argument(f"--{flag}", default="")
    asked, _ = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp(prefix="model-server-"))
    config = asked.model_config_file
    if not config:
        written = folder / "models.config"
        written.write_text(
            f'model_config_list {{ config {{ name: "{asked.model_name}" base_path: "{asked.model_base_path}" }} }}'
        )
        config = str(written)
    os.environ["MILLRACE_WORKER_MODELS_CONFIG"] = config
    command = [sys.executable, "-m", "millrace", "up", "--models", str(folder)]
    os.execv(sys.executable, [*command, "--port", asked.rest_api_port, "--grpc-port", asked.port])


main()
