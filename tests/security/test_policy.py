"""The policy by itself: who may do what, and what a file may say (X4)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steinadler.errors import ConfigError
from steinadler.security import Action, Grants, Policy, parse_policy, read_policy
from steinadler.security.policy import UNNAMED

WATCHING = {"look", "send", "call", "monitor", "call_entity", "connect", "relay"}
# What each role may do by default; the last is one that the library does not know.
BY_DEFAULT = {
    "node": set(Action),
    "observer": WATCHING,
    "sidecar": {"look", "host", "call_entity", "relay"},
    "gateway": WATCHING,
}


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("role", BY_DEFAULT)
def test_by_default_each_role_may_do_this_and_no_more(role: str, action: Action) -> None:
    access = Policy().access(role, "somebody")
    assert access.allows(action, "anything") is (action in BY_DEFAULT[role])


@pytest.mark.parametrize("action", Action)
def test_one_action_granted_is_that_one_alone(action: Action) -> None:
    access = Policy({"gateway": Grants(**{action.value: ("orders.*",)})}).access("gateway", "g")
    assert [each for each in Action if access.allows(each, "orders.new")] == [action]
    assert not access.allows(action, "ledger")


def test_grants_and_actions_are_the_same_words() -> None:
    assert [action.value for action in Action] == list(Grants.__slots__)


def test_a_role_without_a_table_has_that_for_any_role() -> None:
    policy = Policy({"*": Grants(look=("*",)), "gateway": Grants(call=("*",))})
    assert policy.access("batch", "b").allows(Action.LOOK, "info")
    assert not policy.access("batch", "b").allows(Action.CALL, "x")
    assert not policy.access("gateway", "g").allows(Action.LOOK, "info")  # a table says it all
    assert policy.access("node", "n").allows(Action.SPAWN, "x")  # that has one by default


def test_tables_of_names_add_to_what_the_role_may_do() -> None:
    policy = Policy(nodes={"observer": {"backup-*": Grants(spawn=("archive",))}})
    backup, other = policy.access("observer", "backup-1"), policy.access("observer", "laptop")
    assert backup.allows(Action.SPAWN, "archive")
    assert backup.allows(Action.LOOK, "info")
    assert not backup.allows(Action.SPAWN, "format")
    assert not other.allows(Action.SPAWN, "archive")
    # The name alone is no role.
    assert not policy.access("gateway", "backup-1").allows(Action.SPAWN, "archive")


def test_the_rule_names_every_table_that_was_asked() -> None:
    policy = Policy({"gateway": Grants(call=("a", "b.*"))}, {"gateway": {"g-*": Grants()}})
    assert policy.access("gateway", "g-1").rule(Action.CALL) == (
        'roles.gateway has call = ["a", "b.*"]; roles.gateway.nodes."g-*" has call = []'
    )
    assert Policy().access("batch", "b").rule(Action.SPAWN) == 'roles."*" has spawn = []'


def test_a_process_without_a_name_is_in_no_pattern_but_two() -> None:
    def allows(*patterns: str) -> bool:
        return Policy({"g": Grants(send=patterns)}).access("g", "g").allows(Action.SEND, UNNAMED)

    assert allows("*")
    assert allows("@unnamed")
    assert not allows("*unnamed", "@*", "*n*", "@unname*")


TEXT = st.text(alphabet="ab.-*\n[?", max_size=8)


@given(st.lists(TEXT.filter(bool), max_size=3), TEXT)
def test_a_star_is_any_run_of_characters_and_all_else_is_itself(
    patterns: list[str], text: str
) -> None:
    access = Policy({"g": Grants(call=tuple(patterns))}).access("g", "g")
    like = [
        re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL)
        for pattern in patterns
    ]
    assert access.allows(Action.CALL, text) is any(like)


def test_no_name_keeps_a_pattern_busy() -> None:
    """X4: the name is the peer's; as a regular expression this would not end."""
    access = Policy({"g": Grants(call=("*".join("-" * 40) + "x*",))}).access("g", "g")
    assert not access.allows(Action.CALL, "-" * 100_000)


# -- files -----------------------------------------------------------------------------------


def test_a_file_is_the_policy_that_it_says(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        """
        [roles.gateway]
        call = ["orders.*"]
        call_entity = []
        [roles."*"]
        [roles.observer.nodes."backup-*"]
        call = ["archive"]
        """,
        encoding="utf-8",
    )
    assert read_policy(file) == Policy(
        {"gateway": Grants(call=("orders.*",)), "*": Grants()},
        {"observer": {"backup-*": Grants(call=("archive",))}},
    )
    assert read_policy(str(file)).access("node", "n").allows(Action.SPAWN, "x")


def test_an_empty_file_is_the_default() -> None:
    assert parse_policy("") == Policy()


WRONG = {
    '[roles.node]\nlook = ["statistic"]': "roles.node.*look has 'statistic', which is none of echo",
    "[roles.node\n": "p.toml is not TOML: .*line 1",
    "[roles.node]\n[roles.node]": "p.toml is not TOML: .*line 2",
    "[rolls.node]": "p.toml has rolls, which is none of roles",
    "roles = 3": r"p.toml: roles is a table, as in \[roles.sidecar\], not 3",
    "[roles]\nnode = ['*']": r"p.toml: roles.node is a table, .*not \['\*'\]",
    "[roles.node]\nspwan = ['*']": "p.toml: roles.node has spwan, which is none of look, send, ",
    "[roles.node]\n'' = ['*']": 'p.toml: roles.node has "", which is none of look, send, ',
    "[roles.node]\nspawn = '*'": r"p.toml: roles.node.spawn is a list of patterns, .*not '\*'",
    "[roles.node]\nspawn = [1]": r"p.toml: roles.node.spawn is a list of patterns, .*not \[1\]",
    "[roles.node]\nspawn = ['']": r"p.toml: roles.node.spawn is a list of patterns, .*not \[''\]",
    "[roles.node]\nspawn = true": "p.toml: roles.node.spawn is a list of patterns, .*not True",
    "[roles.Node]": "p.toml: roles.Node: 'Node' is not a role: .*letter first; or \"\\*\"",
    "[roles.'a b']": "p.toml: roles.\"a b\": 'a b' is not a role",
    "[roles.node]\nnodes = ['a']": r"p.toml: roles.node.nodes is a table, .*not \['a'\]",
    "[roles.node.nodes.a]\nlok=['*']": "p.toml: roles.node.nodes.a has lok, which is none of look",
    "[roles.node.nodes.'a-*']\nlook=1": 'p.toml: roles.node.nodes."a-\\*".look is a list',
    "[roles.node.nodes.a.nodes.b]": "p.toml: roles.node.nodes.a has nodes, which is none of look",
    "[roles.node.nodes.'']": "p.toml: the nodes of node are patterns of their names",
    "x = " + "[" * 3000: "p.toml is not TOML: ",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_policy_is_one_error_that_says_where(text: str) -> None:
    with pytest.raises(ConfigError, match=WRONG[text]) as caught:
        parse_policy(text, "p.toml")
    assert "\n" not in str(caught.value)


WORDS = st.sampled_from(["roles", "node", "nodes", "*", "spawn", "look", "a-*", "Node", ""])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.lists(WORDS, max_size=2), WORDS),
    lambda inner: st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


def toml(value: object) -> str:
    """A value as TOML has it, tables in one line."""
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
        case None:
            return "1979-05-27"
        case _:
            return json.dumps(value)


@given(st.dictionaries(WORDS, VALUES, max_size=2))
def test_whatever_a_file_says_is_a_policy_or_one_error(document: dict[str, object]) -> None:
    text = "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in document.items())
    match read(text):
        case Policy(roles, nodes):
            assert {*roles, *nodes} <= {"node", "nodes", "roles", "spawn", "look", "*"}
        case str(error):
            assert error.startswith("p.toml")
            assert "\n" not in error


def read(text: str) -> Policy | str:
    try:
        return parse_policy(text, "p.toml")
    except ConfigError as error:
        return str(error)


def test_files_that_cannot_be_read_are_such_errors_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        read_policy(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_policy(tmp_path)
    file = tmp_path / "p.toml"
    file.write_bytes(b"# one\n# two \xff\n")
    with pytest.raises(ConfigError, match=r"p.toml is no policy: line 2 is not UTF-8"):
        read_policy(file)
    file.write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match=r"p.toml is no policy: it has more than 1048576 bytes"):
        read_policy(file)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Grants(call="ledger"),
        lambda: Grants(call=("a", "")),
        lambda: Policy({"No Role": Grants()}),
        lambda: Policy(nodes={"node": {"": Grants()}}),
    ],
)
def test_values_are_checked_as_files_are(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]
