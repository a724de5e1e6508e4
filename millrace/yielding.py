"""Work that takes only the processor time that others leave: the operating system interrupts it for anybody else."""

import contextlib
import os
from pathlib import Path

_LEAST = 19  # of "nice"
_AUTOGROUP = Path("/proc/self/autogroup")


def give_way() -> None:
    """Let this thread, and all threads and processes that it starts, run only where nobody else wants to.

    The process leads a session of its own afterwards: Linux may share processors among sessions before it shares them
    among the processes of each (`autogroup`).
    """
    if os.getsid(0) != os.getpid():
        if os.getpgrp() == os.getpid():  # who leads a group may not lead a session
            os.setpgid(0, os.getpgid(os.getppid()))
        os.setsid()
    with contextlib.suppress(OSError):  # Linux without autogroups, or another system
        _AUTOGROUP.write_text(str(_LEAST))
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):  # another system, or a container that forbids it
        os.nice(_LEAST)
