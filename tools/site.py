"""Adds to the site of the docs (mkdocs.yml) what is not a file in docs/.

README.md becomes the start page; the files for contributors get a page each; the reference of the
commands is made from the commands themselves.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
REFERENCE = """\
# Every command and option

What `--help` says, for all commands on one page. [The command](command.md) explains them.
"""
COMMAND = """
::: mkdocs-click
    :module: {module}
    :command: {command}
    :prog_name: {name}
    :style: plain
    :depth: 1
    :list_subcommands: true
"""
COMMANDS = (
    ("comfy-remote", "comfy_remote.cli.main", "cli"),
    ("comfy-run-remote", "comfy_remote.cli.run_remote", "run_remote"),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_from_docs(text)))
    commands = "".join(
        COMMAND.format(name=name, module=module, command=command)
        for name, module, command in COMMANDS
    )
    files.append(File.generated(config, "reference.md", content=REFERENCE + commands))
    return files


def _from_docs(text: str) -> str:
    """``text`` with its links made relative to docs/, where the pages stand."""
    for page, source in PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return re.sub(r"\]\(docs/", "](", text)
