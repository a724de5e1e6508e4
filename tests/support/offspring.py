"""The processes that a test's own process has started since, beside those of fixtures that live on."""

import contextlib

import psutil


class Offspring:
    """The processes that this process starts once this exists; what ran before, and all below it, is left out."""

    def __init__(self) -> None:
        self._before = frozenset(psutil.Process().children())

    def children(self) -> list[psutil.Process]:
        """Those that this process started itself, ended ones too that it has not waited for."""
        return [process for process in psutil.Process().children() if process not in self._before]

    def grandchildren(self) -> list[psutil.Process]:
        """Those that its children started, and these in turn."""
        found: list[psutil.Process] = []
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += child.children(recursive=True)
        return found
