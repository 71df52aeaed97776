"""What is imported is required, and what is required is used: an extra is not there on a user's machine."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name)[0]).lower()


def imported(folder: Path) -> set[str]:
    """Distributions whose packages the modules of a folder import, anywhere in them."""
    modules: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.split(".")[0])
    known, own = packages_distributions(), {path.stem for path in folder.glob("*.py")}
    return {
        normal(known.get(module, [module])[0])
        for module in modules - set(sys.stdlib_module_names) - own - {"cryoaae", "__future__"}
    }


def test_the_package_imports_what_it_requires_and_nothing_else() -> None:
    assert imported(ROOT / "cryoaae") == {normal(name) for name in PROJECT["dependencies"]}


@pytest.mark.parametrize("folder", ["tests", "scripts"])
def test_tests_and_scripts_need_no_more_than_the_extra(folder: str) -> None:
    required = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    assert imported(ROOT / folder) <= {normal(name) for name in required}


def test_constraints_are_exact_and_cover_every_requirement() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "exact versions only, from no one registry"
    pinned = {normal(line) for line in lines}
    required = PROJECT["dependencies"] + [p for extra in PROJECT["optional-dependencies"].values() for p in extra]
    assert {normal(name) for name in required} <= pinned
