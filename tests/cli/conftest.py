"""A home folder, and a folder with an application module, for each test of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Steinadler

APPLICATION = """
import dataclasses, decimal
import trio, steinadler

@steinadler.message
@dataclasses.dataclass
class Point:
    x: int
    y: int

async def counter(me):
    total = 0
    async for message in me:
        match message:
            case steinadler.Call(("add", n)):
                total += n
                message.reply(total)
            case steinadler.Call("odd things"):
                message.reply(
                    {"set": {3, 1, 2}, "tuple": (1, 2), "bytes": b"hi", "me": me.id,
                     "nan": float("nan"), "price": decimal.Decimal("1.50"), 5: None}
                )
            case steinadler.Call("point"):
                message.reply(Point(1, 2))
            case steinadler.Call("fail"):
                message.fail(ValueError("no\\nway"))
            case steinadler.Call("nothing"):
                kept = message
            case {"add": n}:
                total += n
            case "crash":
                raise RuntimeError("out of ink")

async def deaf(me):
    await trio.sleep_forever()

def not_async(me):
    pass
"""


@pytest.fixture
def steinadler(tmp_path: Path) -> Steinadler:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "shop.py").write_text(APPLICATION)
    return Steinadler(tmp_path / "home", folder)
