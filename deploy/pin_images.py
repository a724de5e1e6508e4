"""Pin every image that this checkout names to its digest: `python3 deploy/pin_images.py [FOLDER]`, or `make pins`.

It asks each image's registry with `docker buildx imagetools inspect`, which needs no running Docker, and writes
`NAME:TAG@sha256:…` into the Dockerfile, docker-compose.yml and the chart's values. The digest is that of all platforms
together. An image that is pinned already gets its tag's digest of today. Nothing is written where one cannot be had.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_TAG = r"(?P<tag>[A-Za-z0-9_][\w.-]*)(?P<digest>@sha256:[0-9a-f]{64})?"
_IMAGE = rf"^\s*image: (?:\$\{{\w+:-)?(?P<name>\w[\w.-]*(?::\d+)?(?:/[\w.-]+)*):(?:\$\{{\w+:-)?{_TAG}"
_PYTHON = rf"^(?:ARG PYTHON=|\s*PYTHON: \$\{{\w+:-){_TAG}"  # the base of our own images, by its tag alone
FILES = ("Dockerfile", "docker-compose.yml", "deploy/chart/values.yaml")


def main(arguments: list[str]) -> int:
    """Pin the images in a folder; the exit status."""
    root = Path(arguments[0]) if arguments else Path(__file__).parent.parent
    texts = {root / name: (root / name).read_text(encoding="utf-8") for name in FILES}
    try:
        digests = {image: _digest(image) for text in texts.values() for image, _ in _named(text)}
    except (OSError, ValueError) as error:
        print(f"pin_images: {error}", file=sys.stderr)
        return 1
    for file, text in texts.items():
        file.write_text(_pinned(text, digests), encoding="utf-8")
    for image, digest in sorted(digests.items()):
        print(f"{image}@{digest}")
    return 0


def _named(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Each image as NAME:TAG, with its place."""
    for pattern in (_IMAGE, _PYTHON):
        for found in re.finditer(pattern, text, re.MULTILINE):
            yield f"{found.groupdict().get('name', 'python')}:{found['tag']}", found


def _digest(image: str) -> str:
    """Raises `OSError` where there is no Docker, `ValueError` with its words where the registry has no such image."""
    command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{json .Manifest}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{image}: {done.stderr.strip()}")
    digest: str = json.loads(done.stdout)["digest"]
    return digest


def _pinned(text: str, digests: dict[str, str]) -> str:
    """The text with a digest behind each tag; from the end, so that places stay."""
    for image, found in sorted(_named(text), key=lambda each: -each[1].start()):
        text = f"{text[: found.end('tag')]}@{digests[image]}{text[found.end() :]}"
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
