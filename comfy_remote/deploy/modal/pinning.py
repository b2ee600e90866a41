"""Custom nodes as people name them, pinned: a tag to its commit, a pack to its newest version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from ...errors import ConfigurationError, TargetUnreachable
from ...worker.nodes.install_custom_nodes import (
    REGISTRY,
    ListError,
    RegistryError,
    newest_version,
    parse_list,
)

__all__ = ["pinned"]

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_PATIENCE = 60.0  # seconds


def pinned(line: str, *, registry: str = REGISTRY) -> str:
    """A line of `install_custom_nodes`: what is one already stays. Blocking; asks the network.

    Args:
        line: Besides: ``NAME`` in the Comfy Registry; ``URL@TAG``, ``URL@BRANCH``, ``URL``.

    Raises:
        ConfigurationError: There is no such pack, tag or branch, or that is no custom node.
        TargetUnreachable: The repository cannot be asked.
    """
    if _usable(line):
        return line
    source, at, reference = line.rpartition("@") if "@" in line else (line, "", "HEAD")
    if not _usable(f"{source}@{'0' * 40}"):
        return line  # the settings' check says what is wrong with it
    if source.startswith("https://") and _REFERENCE.fullmatch(reference):
        return f"{source}@{_commit(source, reference)}"
    if at:
        return line
    try:
        return f"{source}@{newest_version(source, registry)}"
    except RegistryError as error:
        raise _unusable(line, str(error)) from error


def _usable(line: str) -> bool:
    try:
        return bool(parse_list(line))
    except ListError:
        return False


def _commit(url: str, reference: str) -> str:
    """The commit that a tag or branch of a repository is now."""
    git = shutil.which("git")
    if git is None:
        raise _unusable(f"{url}@{reference}", "git, which would look it up, is not installed here")
    try:
        asked = subprocess.run(
            [git, "ls-remote", "--", url, reference, f"{reference}^{{}}"],
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise TargetUnreachable(f"{url} does not answer.", advice="Try again.") from error
    if asked.returncode:
        raise TargetUnreachable(
            f"{url} cannot be asked: {asked.stderr.strip()[-300:]}",
            advice="Check its address; a private one cannot be installed on Modal.",
        )
    lines = (line.partition("\t") for line in asked.stdout.splitlines())
    found = {name: commit for commit, _, name in lines}
    tag = f"refs/tags/{reference}"
    for name in (f"{tag}^{{}}", tag, f"refs/heads/{reference}", reference):
        if name in found:
            return found[name]
    raise _unusable(f"{url}@{reference}", f"the repository has no tag or branch {reference}")


def _unusable(line: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The custom node {line} cannot be used: {why}.",
        advice="Give NAME@VERSION of the Comfy Registry (https://registry.comfy.org), or "
        "https://HOST/OWNER/NAME@COMMIT.",
    )
