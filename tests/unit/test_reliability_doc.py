"""docs/reliability.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_it_names_is_there() -> None:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    files = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for text in files for name in re.findall(r"def (test_\w+)\(", text)}
    assert len(named) > 50
    assert named <= there, sorted(named - there)


def test_every_file_of_tests_it_names_is_there() -> None:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:unit|e2e|faults|page)/\w+\.py)`", text))
    missing = sorted(name for name in named if not (ROOT / "tests" / name).is_file())
    assert named
    assert not missing
