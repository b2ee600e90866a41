"""Which packs a ComfyUI imports, by the files that it lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_remote.targets.engine_facts import imported_packs
from comfy_remote.worker.packs import packs_in


@pytest.mark.parametrize(
    ("file", "pack"),
    [
        ("tints/__init__.py", "tints"),
        ("tints/nodes/deep/__init__.py", None),
        ("tints/readme.md", None),
        ("early/prestartup_script.py", "early"),
        ("one.py", "one"),
        ("example_node.py.example", None),
        ("off.disabled/__init__.py", None),
        (".hidden/__init__.py", ".hidden"),
        ("windows\\__init__.py", "windows"),
        ("__pycache__/one.cpython-311.pyc", None),
    ],
)
def test_a_pack_is_what_comfyui_runs_at_its_start(
    file: str, pack: str | None, tmp_path: Path
) -> None:
    expected = set() if pack is None else {pack}
    assert imported_packs([file]) == expected
    if "\\" not in file:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert packs_in([tmp_path]) == expected
