"""Writes a bill of materials (CycloneDX 1.5) for each role, from its pinned requirements: `make dist` runs it.

python requirements/bom.py dist
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROLES = ("serving", "worker", "worker-gpu", "training", "up")
_PIN = re.compile(
    r"^(?P<name>\S+)==(?P<version>\S+)(?: ; (?P<condition>[^\\\n]+?))? \\$(?P<rest>(?:\n {4}.*)*)", re.MULTILINE
)


def bill(role: str, version: str) -> dict[str, Any]:
    """The bill of a role's pinned requirements; a condition says where a component is installed."""
    text = (HERE / f"{role}.txt").read_text()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": f"millrace-{role}", "version": version}},
        "components": [_component(pin) for pin in _PIN.finditer(text)],
    }


def _component(pin: re.Match[str]) -> dict[str, Any]:
    name, version = pin["name"].partition("[")[0], pin["version"]
    found = {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"}
    # Each hash is a file's, one of which is installed: CycloneDX's own field is for several hashes of one file.
    properties = [{"name": "sha256", "value": digest} for digest in re.findall(r"sha256:([0-9a-f]{64})", pin["rest"])]
    if pin["condition"]:
        properties.append({"name": "condition", "value": pin["condition"]})
    return found | {"properties": properties}


def main() -> None:
    """One file for each role, in the folder that the argument names."""
    from millrace import __version__

    for role in ROLES:
        path = Path(sys.argv[1]) / f"millrace-{role}-{__version__}.cdx.json"
        path.write_text(json.dumps(bill(role, __version__), indent=1) + "\n")


if __name__ == "__main__":
    main()
