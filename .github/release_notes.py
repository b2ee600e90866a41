"""The release notes of a version: its section of CHANGELOG.md.

    python .github/release_notes.py 0.2.0 > notes.md

Fails unless the version is the one in comfy_remote/version.py and has a dated section.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def release_notes(version: str) -> str:
    """The text below ``## VERSION - YYYY-MM-DD``, up to the next section."""
    code = (ROOT / "comfy_remote/version.py").read_text(encoding="utf-8")
    if f'__version__ = "{version}"' not in code:
        sys.exit(f"comfy_remote/version.py does not say {version}.")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(
        rf"^## \[?{re.escape(version)}\]? - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)",
        changelog,
        re.MULTILINE | re.DOTALL,
    )
    if section is None or not section[1].strip():
        sys.exit(f"CHANGELOG.md has no section '## {version} - YYYY-MM-DD'.")
    return section[1].strip() + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.stdout.write(release_notes(sys.argv[1]))
