"""Says which Python and system Millrace needs where this one will not do, before anything is installed.

Any Python runs it, back to 2.7: so it is written in what all of them know. The exit status is 1 where this one fails.
"""

import os
import platform
import sys

OLDEST, NEWEST = (3, 11), (3, 14)
SYSTEMS = [("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")]
NEEDS = (
    "Millrace needs Python 3.11, 3.12, 3.13 or 3.14 on Linux (x86-64 or aarch64, glibc 2.28 or later) "
    "or macOS 14 or later (arm64)"
)


def lacks(version, system, machine, libc):
    """What does not suit, as the rest of a sentence; "" where all does. `libc` is as ("glibc", "2.36")."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        return "this is Python " + ".".join([str(part) for part in version[:3]]) + another()
    if (system, machine) not in SYSTEMS:
        return "this is " + system + " on " + machine
    name, number = libc
    if system == "Linux" and (name != "glibc" or [int(part) for part in number.split(".")[:2]] < [2, 28]):
        return "this system's C library is " + ((name + " " + number).strip() or "not glibc")
    return ""


def another():
    """How to use a Python on the PATH that suits, if there is one."""
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        name = "python3." + str(minor)
        if any(
            [os.access(os.path.join(folder, name), os.X_OK) for folder in os.environ.get("PATH", "").split(os.pathsep)]
        ):
            return "; there is a " + name + ": make PYTHON=" + name
    return ""


if __name__ == "__main__":
    found = lacks(sys.version_info, platform.system(), platform.machine(), platform.libc_ver())
    if found:
        sys.stderr.write(NEEDS + "; " + found + "\n")
        sys.exit(1)
