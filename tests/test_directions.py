"""Dependencies point one way: gateway -> monitors <- evaluator."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported(package: str) -> set[str]:
    """The top packages that a package's files import, wherever in the file."""
    found: set[str] = set()
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file.name}: relative import"
                found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize(
    ("package", "banned"),
    [
        ("monitors", {"gateway", "evaluator", "tests"}),
        ("gateway", {"evaluator", "tests"}),
        ("evaluator", {"gateway", "tests"}),
    ],
)
def test_no_package_imports_what_it_must_not(package: str, banned: set[str]) -> None:
    assert (ROOT / package / "__init__.py").exists()
    assert not imported(package) & banned


def test_the_guarded_stream_does_no_io() -> None:
    source = (ROOT / "monitors" / "stream.py").read_text(encoding="utf-8")
    names = {
        node.module.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert names <= {"__future__", "collections", "dataclasses", "enum", "monitors"}
