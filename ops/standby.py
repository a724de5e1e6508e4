"""The standby of docker-compose.yml: an API and a worker of the last release, which serve while `up` replaces the rest.

    release ──publish──► /release/<id>/bin/python …   current ──► <id>
    standby ──run──────► `millrace up` of the current release. When another one is published, and other workers serve
                         all that this one serves, it ends; the engine starts the container again, with the new one

The standby's container runs what is on a volume and not what is in an image, so that a new image leaves it alone.
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from millrace.broker.redis import RedisBroker
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import WorkerAnnouncement
from millrace.settings import CommonSettings, SettingsError, load

_CURRENT = "current"
_LOOK_S = 0.5


def publish(environment: Path, folder: Path) -> str:
    """Copy a virtual environment into the folder and make it the current release. Returns its id.

    A release that is there already is not copied again. Of the others only the last one stays, which may still run.
    """
    release = _id(environment)
    link, copy = folder / _CURRENT, folder / release
    last = link.readlink().name if link.is_symlink() else release
    if not copy.exists():
        part = folder / f"{release}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(environment, part, symlinks=True)
        part.rename(copy)
    if last != release:
        for other in folder.iterdir():
            if other.name not in (_CURRENT, last, release):
                shutil.rmtree(other)
    new = folder / f"{_CURRENT}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(release)
    new.replace(link)
    return release


def run(folder: Path, arguments: Sequence[str], stopping: threading.Event) -> int:
    """Run `millrace up` of the current release until `stopping` is set, or a newer release has taken over.

    Returns the exit status.
    """
    settings = load(CommonSettings, os.environ)
    link = RedisBroker(settings.redis_url).worker()
    current = folder / _CURRENT
    release = current.readlink()
    python = folder / release / "bin" / "python"  # not by the link, behind which there will soon be another release
    command = [str(python), "-P", "-m", "millrace", "up", "--log-level", settings.log_level, *arguments]
    with subprocess.Popen(command) as stack:
        while stack.poll() is None and not stopping.wait(_LOOK_S):
            if current.readlink() != release and _is_replaced(link.live):
                stack.terminate()
                return stack.wait()
        if stack.poll() is None:
            stack.terminate()
    return stack.returncode


def _is_replaced(live: Callable[[], Sequence[WorkerAnnouncement]]) -> bool:
    """Whether workers of other machines serve all that the worker of this one serves."""
    try:
        workers = live()
    except Unavailable:
        return False
    here = f"{socket.gethostname()}-"
    ours = [worker for worker in workers if worker.worker.startswith(here)]
    return _served_by(ours) <= _served_by([worker for worker in workers if worker not in ours])


def _served_by(workers: Sequence[WorkerAnnouncement]) -> set[tuple[str, int]]:
    available = (model for worker in workers for model in worker.models if model.state == "AVAILABLE")
    return {(model.name, model.version) for model in available}


def _id(environment: Path) -> str:
    """A name for what is installed there: two environments with the same files have the same one."""
    records = sorted(environment.glob("lib/python*/site-packages/*.dist-info/RECORD"))
    text = b"".join(record.read_bytes() for record in records)
    return hashlib.sha256(sys.version.encode() + text).hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> int:
    """`publish ENVIRONMENT FOLDER`, or `run FOLDER [options of millrace up]`; returns the exit status."""
    match list(sys.argv[1:] if argv is None else argv):
        case ["publish", environment, folder]:
            print(f"published {publish(Path(environment), Path(folder))}", flush=True)
            return 0
        case ["run", folder, *arguments]:
            stopping = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                # In a thread: a handler that sets an event may meet the main thread inside that event's lock.
                signal.signal(number, lambda *_: threading.Thread(target=stopping.set).start())
            try:
                return run(Path(folder), arguments, stopping)
            except SettingsError as error:
                print(f"standby: {error}", file=sys.stderr)
                return 2
    print("usage: ops.standby publish ENVIRONMENT FOLDER | run FOLDER [OPTION …]", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
