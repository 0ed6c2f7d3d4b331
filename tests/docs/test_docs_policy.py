"""What docs/security.md says of roles: the default, the actions, and the examples."""

from __future__ import annotations

import re
from pathlib import Path

from steinadler.security import Action, Policy, parse_policy
from steinadler.security.policy import DEFAULT_ROLES

TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
FILES = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_default_policy_is_written_down_as_a_file() -> None:
    written = TEXT.split("<!-- the default policy -->\n```toml\n")[1].split("```")[0]
    assert parse_policy(written) == Policy(DEFAULT_ROLES)


def test_every_file_is_a_policy() -> None:
    assert len(FILES) >= 2
    for file in FILES:
        parse_policy(file)


def test_every_action_is_explained() -> None:
    table = TEXT.split("| Action | ")[1].split("\n\n")[0]
    firsts = "".join(row.split("|")[1] for row in table.splitlines() if row.startswith("|"))
    assert re.findall(r"`(\w+)`", firsts) == [action.value for action in Action]


def test_the_line_of_the_example_is_what_its_policy_makes() -> None:
    rule = parse_policy(FILES[1]).access("gateway", "shop-1").rule(Action.CALL)
    assert f"may not call 'ledger' on alice: {rule}\n" in TEXT
