"""`steinadler doctor`, as a shell gives it."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner
from commands import Steinadler

from steinadler.cli.root import root
from steinadler.diagnosis import Level, Topic


def findings(told: dict[str, Any]) -> list[dict[str, str]]:
    return [finding for check in told["checks"] for finding in check["findings"]]


@pytest.mark.slow
async def test_a_cluster_in_order_and_a_key_that_others_may_read(steinadler: Steinadler) -> None:
    async with steinadler.node("alice"):
        well = (await steinadler.ask("doctor", "--json")).json
        (steinadler.home / "clusters/default/ca.key").chmod(0o640)
        ill = await steinadler.ask("doctor")
    assert (well["healthy"], well["problems"], well["warnings"]) == (True, 0, 0)
    assert [check["check"] for check in well["checks"]] == [
        *("machine", "home", "network", "names", "nodes", "cluster", "neighbourhood")
    ]
    for finding in findings(well):
        assert finding.keys() == {"topic", "level", "seen", "do"}
        assert finding["topic"] in set(Topic)
        assert finding["level"] in {Level.OK, Level.NOTE}
    assert any("alice is a member" in finding["seen"] for finding in findings(well))
    assert (ill.code, ill.stderr) == (1, "")
    lines = ill.stdout.splitlines()
    key = steinadler.home / "clusters/default/ca.key"
    (line,) = [number for number, text in enumerate(lines) if text.startswith("  problem")]
    assert f"{key} has mode 0640" in lines[line]
    assert lines[line + 1] == f"          -> chmod 600 '{key}'"
    assert lines[-1] == f"1 problem, no warnings.  Begin with: chmod 600 '{key}'."


@pytest.mark.parametrize(
    "words", [["--cert", "a.pem"], ["--timeout", "0"], ["--seed", "nowhere"], ["alice"]]
)
def test_command_lines_that_make_no_sense(words: list[str]) -> None:
    result = CliRunner().invoke(root, ["doctor", *words])
    assert result.exit_code == 2
