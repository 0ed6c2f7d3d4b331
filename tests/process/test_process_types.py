"""What a type checker knows of a process: its node is a `Node`, with all that programs may do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from typing import assert_type

import steinadler


async def worker(me: steinadler.Process, source: steinadler.SourceRef) -> None:
    assert_type(me.node, steinadler.Node)
    assert_type(await me.node.claim(source), steinadler.ReceiveChannel)
    assert_type(await me.node.connect("web@bob"), steinadler.ByteStream)
    assert_type(me.node.members(), tuple[steinadler.Member, ...])
    me.node.no_such_thing()
"""


@pytest.mark.slow
def test_a_process_may_do_with_its_node_what_a_program_may(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(program)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    (error, _summary) = checked.stdout.splitlines()
    assert 'program.py:12: error: "Node" has no attribute "no_such_thing"' in error
