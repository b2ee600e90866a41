"""What packs require of Python, installed beside the engine's own packages and never into them.

By uv: first it resolves against what the engine's Python has, each package held at its version, so
that neither torch nor anything that ComfyUI needs can change. What is then missing is installed
into the set, by the same requirements without all that is there.

Facts about uv 0.13 (by trying; docs.astral.sh/uv/reference/cli): ``pip install --dry-run`` takes
installed packages for candidates, ``--target`` does not look at them at all, hence ``--excludes``
with their names, which drops them from every package's requirements; ``--output-format json`` lists
``changes`` with ``name``, ``version`` and ``action``.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...aio import in_thread
from ...errors import ComfyRemoteError, NodesUnavailable
from ...media.files import storage_errors
from ...types import JsonValue, as_list, mapping
from .steps import failed, run

__all__ = ["ABI", "CONSTRAINTS", "Requirements", "find_uv"]

CONSTRAINTS = "constraints.txt"
"""In a set's folder: what the engine's Python has."""

_PINS = "pins.txt"
_EXCLUDES = "excludes.txt"
_FILE = "requirements.txt"
_STEP = "requirements"
_LONGEST_REASON = 1000
ABI = "import sysconfig; print(sysconfig.get_config_var('SOABI') or sysconfig.get_platform())"
"""A program that prints what a Python's packages are built for: ``cpython-312-x86_64-linux-gnu``.
"""


def find_uv() -> str | None:
    """uv's program: of the package ``uv`` beside ours, else the one on the path."""
    if importlib.util.find_spec("uv") is not None:
        from uv import find_uv_bin

        try:
            return str(find_uv_bin())
        except FileNotFoundError:
            pass
    return shutil.which("uv")


class Requirements:
    """Installs requirements for one Python.

    Args:
        python: The engine's.
        environ: Of uv, without secrets. The owner's ``UV_…`` variables are in it: an index of
            their own, for example.
        patience: Seconds for each of uv's runs.
    """

    def __init__(self, python: str, environ: Mapping[str, str], patience: float) -> None:
        self._python = python
        self._environ = {"UV_LINK_MODE": "copy", **environ, "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
        self._patience = patience

    async def abi(self, folder: Path) -> str:
        """What packages for this Python are built for: ``cpython-312-x86_64-linux-gnu``."""
        said = await run(
            *(self._python, "-c", ABI),
            step=_STEP,
            what="ComfyUI's Python",
            cwd=folder,
            environ=self._environ,
            patience=60.0,
        )
        return said.strip()

    async def installed(self, folder: Path) -> dict[str, str]:
        """Versions of what the engine's Python has, by name."""
        said = await self._uv("list", "--format", "json", what="Listing packages", cwd=folder)
        packages = [mapping(one) for one in as_list(_parsed(said))]
        return {str(one["name"]): str(one["version"]) for one in packages if "version" in one}

    async def install(
        self, packs: Sequence[Path], wanted: Sequence[str], folder: Path, site: Path
    ) -> dict[str, str]:
        """Install what packs require and the engine's Python lacks.

        Args:
            packs: The folders of all packs of the set: what they require must go together.
            wanted: Names of those that are new, which are blamed first.
            folder: Of the set; the lists for uv are written there.
            site: Where the packages go.

        Returns:
            Their versions, by name.

        Raises:
            NodesUnavailable: A pack wants another version of what ComfyUI has, or of what another
                pack wants, or a package cannot be had or built.
            LocalStorageError: The disk is full.
        """
        there = await self.installed(folder)
        pins = [f"{name}=={version}" for name, version in there.items()]
        await in_thread(_write, folder / CONSTRAINTS, pins)
        files = [pack / _FILE for pack in packs if (pack / _FILE).is_file()]
        if not files:
            return {}
        missing = await self._resolved(files, wanted, folder)
        if changed := sorted(there.keys() & missing.keys()):
            name = changed[0]
            raise failed(
                _STEP,
                f"The packs would replace {name} {there[name]}, which ComfyUI's Python has, by "
                f"{missing[name]}.",
            )
        if not missing:
            return {}
        pins += [f"{name}=={version}" for name, version in missing.items()]
        await in_thread(_write, folder / _PINS, pins)
        await in_thread(_write, folder / _EXCLUDES, sorted(there))
        await self._uv(
            *("install", "--target", str(site)),
            *("--constraints", str(folder / _PINS), "--excludes", str(folder / _EXCLUDES)),
            *_all(files),
            what=f"Installing {len(missing)} Python packages",
            cwd=folder,
        )
        return missing

    async def _resolved(
        self, files: Sequence[Path], wanted: Sequence[str], folder: Path
    ) -> dict[str, str]:
        try:
            return await self._missing(files, folder, "What the packs require")
        except NodesUnavailable as error:
            # Which one is it? The new ones first: each by itself.
            for file in sorted(files, key=lambda one: one.parent.name not in wanted):
                name = file.parent.name
                try:
                    await self._missing([file], folder, f"What {name} requires", name)
                except NodesUnavailable as its_own:
                    raise _impossible(its_own, name) from error
            names = ", ".join(file.parent.name for file in files)
            raise _impossible(error, None, f"What {names} require together") from error

    async def _missing(
        self, files: Sequence[Path], folder: Path, what: str, pack: str | None = None
    ) -> dict[str, str]:
        said = await self._uv(
            # Of a system's Python it must not be said twice that nothing is changed.
            *("install", "--dry-run", "--break-system-packages", "--output-format", "json"),
            *("--constraints", str(folder / CONSTRAINTS)),
            *_all(files),
            what=f"{what}: uv",
            cwd=folder,
            pack=pack,
        )
        changes = [mapping(one) for one in as_list(mapping(_parsed(said)).get("changes"))]
        return {str(one.get("name")): str(one.get("version")) for one in changes}

    async def _uv(self, *arguments: str, what: str, cwd: Path, pack: str | None = None) -> str:
        uv = await in_thread(find_uv)
        if uv is None:
            raise failed(
                _STEP,
                "uv, which installs the packs' requirements, is not here.",
                advice="Install it on the worker: pip install 'comfy-remote[worker]', or uv alone.",
            )
        return await run(
            *(uv, "pip", *arguments, "--python", self._python),
            step=_STEP,
            what=what,
            cwd=cwd,
            environ=self._environ,
            patience=self._patience,
            pack=pack,
        )


def _all(files: Sequence[Path]) -> list[str]:
    return [word for file in files for word in ("--requirements", str(file))]


def _parsed(text: str) -> JsonValue:
    try:
        found: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        raise failed(_STEP, "uv's answer cannot be read: this needs uv 0.13 or later.") from None
    return found


def _write(path: Path, lines: Sequence[str]) -> None:
    with storage_errors(path):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _impossible(
    error: ComfyRemoteError, pack: str | None, what: str | None = None
) -> NodesUnavailable:
    """The same error, with uv's reason in its message: it is a sentence for people."""
    log = str(error.details.get("log", ""))
    _, said, reason = log.partition("cause:")
    reason = re.sub(r"\s+", " ", reason if said else log).strip() or error.message
    wanted = what or f"What {pack} requires"
    if "No solution found" not in log:
        return NodesUnavailable(
            f"{wanted} cannot be installed: {reason[:_LONGEST_REASON]}",
            advice="The packs that were there before still run.",
            details={**error.details, **({"pack": pack} if pack else {})},
        )
    return NodesUnavailable(
        f"{wanted} does not go with what ComfyUI's Python has: {reason[:_LONGEST_REASON]}",
        advice="Take another version of the pack. Packages of ComfyUI's own Python, torch among "
        "them, are never changed. The packs that were there before still run.",
        details={**error.details, **({"pack": pack} if pack else {})},
    )
