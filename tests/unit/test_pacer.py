"""The pacer: pieces of work run one after the other, whatever becomes of one of them."""

import asyncio

import pytest

from serving.transport.pacer import Pacer


def test_a_piece_that_fails_keeps_no_other_from_running() -> None:
    ran, errors = list[int](), list[dict[str, object]]()

    def failing() -> None:
        ran.append(1)
        raise ValueError("broken")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        pacer = Pacer(loop)
        for piece in (failing, lambda: ran.append(2)):
            pacer.add(piece)
        async with asyncio.timeout(5):
            while len(ran) < 2:
                await asyncio.sleep(0)
            pacer.add(lambda: ran.append(3))
            while len(ran) < 3:
                await asyncio.sleep(0)

    asyncio.run(main())
    assert ran == [1, 2, 3]
    with pytest.raises(ValueError, match="broken"):
        raise errors[0]["exception"]  # type: ignore[misc]
