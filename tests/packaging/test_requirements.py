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
    beside = (folder, folder / "stand_ins")  # the tests' stand-ins are on pytest's `pythonpath`
    own = {path.stem for one in beside for path in one.glob("*.py")} | {"napari_cryoaae"}
    known = packages_distributions()
    return {
        normal(known.get(module, [module])[0])
        for module in modules - set(sys.stdlib_module_names) - own - {"cryoaae", "__future__"}
    }


def test_the_package_imports_what_it_requires_and_nothing_else() -> None:
    # Several processes of a fit are joined by an extra, which only they load.
    several = {normal(name) for name in PROJECT["optional-dependencies"]["distributed"]}
    assert imported(ROOT / "cryoaae") == {normal(name) for name in PROJECT["dependencies"]} | several


@pytest.mark.parametrize(
    ("folder", "extras"), [("tests", ["dev", "gui"]), ("scripts", ["dev", "gui"]), ("plugins", ["gui"])]
)
def test_other_folders_need_no_more_than_their_extras(folder: str, extras: list[str]) -> None:
    extra = [name for one in extras for name in PROJECT["optional-dependencies"][one]]
    assert imported(ROOT / folder) <= {normal(name) for name in PROJECT["dependencies"] + extra}


def test_the_core_needs_no_window() -> None:
    """Qt and the viewer come with the extra alone: a cluster's node has no screen."""
    window = {normal(name) for name in PROJECT["optional-dependencies"]["gui"]}
    assert not window & {normal(name) for name in PROJECT["dependencies"]}
    assert not window & imported(ROOT / "cryoaae")
    # imageio finds its encoder by itself.
    assert window - {"napari", "npe2", "pyside6-essentials", "imageio-ffmpeg"} <= imported(ROOT / "plugins")


def test_constraints_are_exact_and_cover_every_requirement() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "exact versions only, from no one registry"
    pinned = {normal(line) for line in lines}
    required = PROJECT["dependencies"] + [p for extra in PROJECT["optional-dependencies"].values() for p in extra]
    assert {normal(name) for name in required} <= pinned
