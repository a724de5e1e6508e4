"""Files that are read again when they change."""

import asyncio
from pathlib import Path

import pytest

from serving.watched_files import WatchedFiles


def test_what_fails_once_is_tried_again_and_later_changes_are_seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, seen = tmp_path / "keys.json", asyncio.Queue[str]()

    async def test() -> None:
        loop = asyncio.get_running_loop()

        def changed() -> None:
            loop.call_soon_threadsafe(seen.put_nowait, file.read_text())
            if file.read_text() == "first" and not caplog.records:
                raise RuntimeError("can't start new thread")

        watched = WatchedFiles([file], changed, look_s=0.005)
        watched.start()
        file.write_text("first")
        while await seen.get() != "first" or await seen.get() != "first":
            pass
        file.write_text("second")
        while await seen.get() != "second":
            pass
        await watched.stop()

    asyncio.run(asyncio.wait_for(test(), 20))
    assert [record.getMessage() for record in caplog.records] == [
        "files could not be looked at; they are looked at again"
    ]
