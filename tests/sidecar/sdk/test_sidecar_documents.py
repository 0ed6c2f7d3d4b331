"""The curl lines of the documents work as written, beside the programs that the documents name."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from sdk_stage import Stage

pytestmark = pytest.mark.slow  # a sidecar and a program each

ROOT = Path(__file__).parents[3]
CART = (ROOT / "examples/sidecar_python/cart.py").read_text(encoding="utf-8")


def lines_of(text: str, command: str) -> list[str]:
    """The indented lines of a text that begin with a command, in an environment or not."""
    return re.findall(rf"^ *(?:# )?(?:\.venv/bin/)?({command} .*)$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("document", "answers"),
    [
        (
            "README.md",
            [
                r'{"total":2}',
                r'{"items":{"nut":2},"emptied":0}',
                r'{"id":"alice",.*"actors":\[{"type":"Cart"',
                "# HELP",
            ],
        ),
        (
            "docs/getting-started.md",
            [r'{"total":2}', r'{"items":{"nut":2},"emptied":0}', r'{.*"errorCode":"BAD_ORDER"'],
        ),
        ("docs/sidecar.md", ["1", r'{"id":"alice",', "204", "# HELP"]),
        (
            "examples/sidecar_python/cart.py",
            [r'{"total":2}', r'{"items":{"nut":2},"emptied":0}'],
        ),
    ],
)
async def test_the_curl_lines_work(
    stage: Stage, tmp_path: Path, document: str, answers: list[str]
) -> None:
    """On other ports than the document's, which may be in use."""
    text = (ROOT / document).read_text(encoding="utf-8")
    program = tmp_path / "cart.py"
    own = re.search(r"^```python no-run\n(from contextlib.*?)^```$", text, re.M | re.S)
    program.write_text(own[1] + SERVE if own else CART, encoding="utf-8")
    sidecar, _ = await stage.host("alice", [sys.executable, str(program)])
    started = lines_of(text, "steinadler sidecar")
    assert any(re.match(r"steinadler sidecar --app-port 3000\b", line) for line in started)
    lines = lines_of(text, "curl")
    assert len(lines) == len(answers)
    port = sidecar.ready["http"][0].rpartition(":")[2]
    for line, expected in zip(lines, answers, strict=True):
        ran = await stage.run(["bash", "-c", line.replace("3500", port)])
        assert ran.returncode == 0, ran.stderr
        assert re.match(expected, ran.stdout.decode()), (line, ran.stdout)


SERVE = """
import os, uvicorn
uvicorn.run(app, port=int(os.environ["APP_PORT"]))
"""
