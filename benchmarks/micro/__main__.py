"""Run every micro benchmark, one after another: `.venv/bin/python -m benchmarks.micro [NAME …]`."""

import importlib
import pkgutil
import sys
from pathlib import Path


def main() -> None:
    """Those that are named, or all."""
    found = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    for name in sys.argv[1:] or [name for name in found if name not in ("__main__", "timing")]:
        importlib.import_module(f"benchmarks.micro.{name}").main()


if __name__ == "__main__":
    main()
