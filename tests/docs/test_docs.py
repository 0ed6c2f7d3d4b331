"""What the documents say is so: commands, code, links, names, numbers."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hex_examples import EXAMPLES

import steinadler
from steinadler import (
    Config,
    DialSettings,
    EntitySettings,
    MembershipSettings,
    StreamSettings,
    WireSettings,
)
from steinadler.cli.cluster import cluster
from steinadler.cli.root import root
from steinadler.diagnosis import Topic
from steinadler.wire.handshake import RejectReason

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
PROMISES = [
    "M1",
    "M2",
    "M3",
    "M4",
    "M5",
    "M6",
    "C1",
    "C2",
    "C3",
    "D1",
    "D2",
    "D3",
    "D4",
    "N1",
    "N2",
    "N3",
    "S1",
    "S2",
    "S3",
    "X1",
    "X2",
    "X3",
    "X4",
    "E1",
    "E2",
    "E3",
]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks of exactly that info string: line number and content."""
    for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1].strip() == language:
            yield text.count("\n", 0, match.start()) + 2, match[2]


def run(command: list[str], home: Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, "STEINADLER_HOME": str(home)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


# Every ```python block runs as it stands; one that cannot is tagged ```python no-run.
PROGRAMS = [
    pytest.param(code, id=f"{name}:{line}", marks=() if name == "README.md" else pytest.mark.slow)
    for name in NAMES
    for line, code in blocks(read(name), "python")
]


@pytest.mark.parametrize("code", PROGRAMS)
def test_programs_in_the_documents_run(code: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(code, encoding="utf-8")
    result = run([sys.executable, str(program)], tmp_path / "home", tmp_path)
    assert result.returncode == 0, result.stderr
    expected = [said.strip() for said in re.findall(r"print\(.*\)\s+# (.*)", code)]
    for line in expected:
        assert line in result.stdout.splitlines()


def test_there_are_programs_in_readme_and_guide() -> None:
    assert len(list(blocks(read("README.md"), "python"))) == 1
    assert len(list(blocks(read("docs/getting-started.md"), "python"))) >= 5
    assert len(list(blocks(read("docs/entities.md"), "python"))) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_examples_run_to_their_end(name: str, tmp_path: Path) -> None:
    result = run([sys.executable, f"examples/{name}"], tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert "Traceback" not in result.stderr


def test_every_example_is_named_in_a_document_and_run_by_a_test() -> None:
    """Those in folders of their own by the tests of the sidecar, all others by the one above."""
    documents = "".join(map(read, NAMES))
    runs_folders = read("tests/sidecar/sdk/test_sidecar_examples.py")
    programs = [
        path.relative_to(ROOT / "examples")
        for path in sorted((ROOT / "examples").rglob("*"))
        if path.suffix in {".py", ".js"} and "node_modules" not in path.parts
    ]
    assert programs
    for program in programs:
        if program.parent.name:
            assert f"examples/{program.parent}/" in documents, program
            assert f'"{program.parent}"' in runs_folders, program
            assert f'"{program.stem}"' in runs_folders, program
        else:
            assert f"examples/{program}" in documents, program


def test_readme_has_the_two_set_up_commands_once_each() -> None:
    commands = [code.strip() for _, code in blocks(read("README.md"), "sh")]
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/steinadler demo",
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest",
    ]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(name)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / name).parent / path if path else ROOT / name
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("name", NAMES)
def test_modules_and_names_that_are_mentioned_exist(name: str) -> None:
    for dotted in set(re.findall(r"`(steinadler(?:\.\w+)+)", read(name))):
        module, found = steinadler, True
        for part in dotted.split(".")[1:]:
            if not hasattr(module, part):
                try:
                    importlib.import_module(f"{module.__name__}.{part}")
                except (ImportError, AttributeError):
                    found = False
                    break
            module = getattr(module, part)
        assert found or dotted in logging.root.manager.loggerDict, dotted


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_mentioned_exist(name: str) -> None:
    for path in set(re.findall(r"`((?:tests|examples|docs)/[\w/.-]+)`", read(name))):
        assert (ROOT / path).exists(), path
    for path in set(
        re.findall(
            r"`((?:wire|membership|delivery|transport|process|entity|node)/\w+\.py)`", read(name)
        )
    ):
        assert (ROOT / "steinadler" / path).exists(), path


def test_each_promise_names_tests_that_name_it() -> None:
    rows = re.findall(r"^\| ([MCDNSXE]\d) \|[^|]*\| (.*) \|$", read("README.md"), re.MULTILINE)
    assert [promise for promise, _ in rows] == PROMISES
    for promise, where in rows:
        files = re.findall(r"`(tests/[\w/]+\.py)`", where)
        assert files, promise
        for file in files:
            assert re.search(rf"\b{promise}\b", read(file)), f"{file} does not name {promise}"
    assert re.findall(r"^\*\*([MCDNSXE]\d)\*\*", read("docs/promises.md"), re.MULTILINE) == PROMISES


# -- the command line ------------------------------------------------------------------------

COMMANDS = [
    "demo",
    "node",
    "sidecar",
    "expose",
    "forward",
    "members",
    "services",
    "whereis",
    "send",
    "call",
    "top",
    "doctor",
]


def help_of(*command: str) -> str:
    result = CliRunner().invoke(root, [*command, "--help"])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_reference_of_the_command_line_is_complete() -> None:
    text = read("docs/operations.md")
    written = {
        *(f"cluster {name}" for name in cluster.commands),
        *COMMANDS,
    }
    assert set(re.findall(r"^### `steinadler (\w+(?: [a-z-]+)?)", text, re.MULTILINE)) == written
    for command in written:
        rest = re.split(rf"### `steinadler {command}(?![\w-])", text, maxsplit=1)[1]
        section = re.split(r"^##", rest, flags=re.M)[0]
        if command in {"members", "services", "whereis", "send", "call", "top"}:
            section += text.split("### Options of", 1)[1].split("\n##", 1)[0]
        options = set(re.findall(r"--[a-z-]+", help_of(*command.split())))
        assert options - {"--help"} <= set(re.findall(r"--[a-z-]+", section)), command
    listed = help_of().split("Commands:")[1]
    assert set(re.findall(r"^  (\w+)", listed, re.MULTILINE)) == {"cluster", *COMMANDS}


def test_every_topic_of_the_doctor_is_listed_with_its_check() -> None:
    section = read("docs/operations.md").split("### `steinadler doctor`", 1)[1].split("\n##", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| (`.*`) \|$", section, re.MULTILINE)
    listed = [topic for _, topics in rows for topic in re.findall(r"`([a-z-]+)`", topics)]
    assert sorted([*listed, "unfinished"]) == sorted(Topic)
    assert "`unfinished`" in section


@pytest.mark.parametrize("name", NAMES)
def test_commands_that_are_mentioned_exist(name: str) -> None:
    known = {"cluster", *COMMANDS}
    helps: dict[str, str] = {}
    for line in re.findall(r"^ *(?:\$ )?steinadler (.*)$", read(name), re.MULTILINE):
        command, *words = line.split()
        assert command in known, line
        if command == "cluster" and words:
            command = f"cluster {words[0]}"
        if command not in helps:
            helps[command] = help_of(*command.split())
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in helps[command], line


# -- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [WireSettings, MembershipSettings, DialSettings, EntitySettings, StreamSettings, Config],
)
def test_every_setting_is_explained_with_its_default(settings: type) -> None:
    text = read("docs/operations.md")
    for field in dataclasses.fields(settings):
        if field.default is dataclasses.MISSING:
            continue
        row = re.search(rf"^\| `{field.name}` \| ([^|]*) \|", text, re.MULTILINE)
        assert row, field.name
        if isinstance(field.default, enum.Enum):
            assert row[1].strip() == f"`{field.default.name}`", field.name
            continue
        if isinstance(field.default, bool):
            assert row[1].strip() == str(field.default).lower(), field.name
            continue
        number, _, unit = row[1].replace(",", "").partition(" ")
        factor = {"MiB": 1 << 20, "": 1}[unit.strip()]
        assert float(number) * factor == field.default, field.name


@pytest.mark.parametrize(
    ("heading", "statistics"),
    [
        ("`Node.statistics()`, counted", steinadler.NodeStatistics),
        ("`Node.connections()`, for", steinadler.ConnectionStatistics),
        ("`Node.processes()`, for", steinadler.ProcessStatistics),
        ("`Node.stream_statistics()`, for", steinadler.StreamStatistics),
    ],
)
def test_every_figure_is_explained(heading: str, statistics: type) -> None:
    table = read("docs/operations.md").split(heading, 1)[1].split("\n\n")[1]
    firsts = "".join(row.split("|")[1] for row in table.splitlines())
    names = {field.name for field in dataclasses.fields(statistics)}
    assert set(re.findall(r"`(\w+)`", firsts)) == names


def test_every_error_is_explained() -> None:
    text = read("docs/getting-started.md")
    for name in steinadler.__all__:
        member = getattr(steinadler, name)
        if isinstance(member, type) and issubclass(member, Exception):
            assert f"`{name}" in text, name


def test_every_reject_reason_is_explained() -> None:
    for reason in RejectReason:
        assert f"| `{reason.value}` |" in read("docs/wire-protocol.md")


# -- the wire, byte by byte ------------------------------------------------------------------

WRITTEN = {
    name: bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))
    for name, text in re.findall(
        r"^<!-- example: (\w+) -->\n```hex\n(.*?)^```$",
        read("docs/wire-protocol.md"),
        re.MULTILINE | re.DOTALL,
    )
}


def test_all_worked_examples_are_written_down() -> None:
    assert set(WRITTEN) == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples_are_what_the_code_sends(name: str) -> None:
    assert WRITTEN[name].hex(" ") == EXAMPLES[name]().hex(" ")
