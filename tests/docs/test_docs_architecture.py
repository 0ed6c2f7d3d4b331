"""docs/architecture.md and the packages' docstrings: the layers and the modules that there are."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import steinadler

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def layers() -> list[set[str]]:
    """What import-linter enforces, from the bottom up: those that one layer holds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layered,) = [each["layers"] for each in contracts if each["type"] == "layers"]
    return [set(re.findall(r"steinadler\.(\w+)", layer)) for layer in reversed(layered)]


def in_order(names: list[str]) -> list[set[str]]:
    """The names, cut into sets as large as the layers are."""
    rest = iter(names)
    cut = [{next(rest, "") for _ in layer} for layer in layers()]
    return [*cut, *({name} for name in rest)]


def test_the_table_has_the_layers_that_are_enforced() -> None:
    table = TEXT.split("| Package | Kind |")[1].split("\n\n")[0]
    firsts = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert in_order(re.findall(r"`steinadler\.(\w+)`", "".join(firsts))) == layers()


def test_the_package_itself_lists_the_layers_that_are_enforced() -> None:
    layout = (steinadler.__doc__ or "").split("in this list):")[1]
    listed = re.findall(r"^    (\w+(?:, \w+)*) ", layout, re.MULTILINE)
    assert in_order([name for row in listed for name in row.split(", ")]) == layers()


PACKAGES = sorted(path.parent for path in (ROOT / "steinadler").glob("*/__init__.py"))


def named(package: Path) -> list[str]:
    """The modules that have a line of their own in the package's docstring."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    return re.findall(r"^    ([a-z]\w*) {2,}\S", text or "", re.MULTILINE)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_packages_docstring_has_a_line_for_each_of_its_modules(package: Path) -> None:
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert sorted(named(package)) == sorted(modules)


def test_there_are_packages() -> None:
    assert {package.name for package in PACKAGES} == set().union(*layers()) - {
        "errors",
        "identity",
        "config",
    }
