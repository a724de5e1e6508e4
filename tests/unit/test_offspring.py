"""What tests take for the processes of the thing they test."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.support.offspring import Offspring


@contextmanager
def parent() -> Iterator[tuple[psutil.Process, psutil.Process]]:
    """A process and its one child."""
    command = ["sh", "-c", "sleep 60 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        child = psutil.Process(int(process.stdout.readline()))
        try:
            yield psutil.Process(process.pid), child
        finally:
            child.kill()
            process.kill()


def test_what_ran_before_is_left_out_with_all_that_it_starts() -> None:
    with parent():
        offspring = Offspring()
        assert (offspring.children(), offspring.grandchildren()) == ([], [])
        with parent() as (child, grandchild):
            assert (offspring.children(), offspring.grandchildren()) == ([child], [grandchild])
        assert (offspring.children(), offspring.grandchildren()) == ([], [])
