"""What packs require of Python, installed beside the engine's own packages and never into them.

By uv: first it resolves against what the engine's Python has, each package held at its version, so
that neither torch nor anything that ComfyUI needs can change. What is then missing is installed
into the set, by the same requirements without all that is there.

What the engine's Python has, that Python says itself: uv does not see packages that a ``.pth`` file
or the system's Python gives to a virtual environment, as many images have torch. uv is shown a
folder with their metadata. What they require themselves is left out of it, since they work as they
are; what their extras require stays.

Facts about uv 0.13 (by trying; docs.astral.sh/uv/reference/cli): with ``--target``, what is in
that folder counts as installed, and nothing else; ``--excludes`` drops packages from what all
others require; ``--output-format json`` lists ``changes``: ``name``, ``version``, ``action``.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from ...aio import in_thread
from ...errors import ComfyRemoteError, NodesUnavailable
from ...media.file_changes import discard
from ...types import JsonValue, as_list, mapping
from .steps import failed, run, stored

__all__ = ["ABI", "CONSTRAINTS", "Requirements", "find_uv"]

CONSTRAINTS = "constraints.txt"
"""In a set's folder: what the engine's Python has."""

_SEEN = "seen"
_PINS = "pins.txt"
_EXCLUDES = "excludes.txt"
_FILE = "requirements.txt"
_STEP = "requirements"
_LONGEST_REASON = 1000
_QUESTION = 60.0  # seconds
_VERSION = re.compile(  # packaging.python.org, version specifiers, in their normal form
    r"(\d+!)?\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[a-z0-9]+(\.[a-z0-9]+)*)?"
)
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


# Prints, by name, the metadata of all distributions that a Python finds.
_LIST = """
import json, re, sys
from importlib import metadata
found = {}
for one in metadata.distributions():
    said = one.metadata
    name = re.sub("[-_.]+", "-", said["Name"] or "").lower()
    if name and said["Version"] and name not in found:
        needs = [need for need in said.get_all("Requires-Dist") or () if "extra ==" in need]
        extras = said.get_all("Provides-Extra") or ()
        found[name] = {"version": said["Version"], "needs": needs, "extras": list(extras)}
json.dump(found, sys.stdout)
"""


class _Distribution(BaseModel):
    version: str
    needs: list[str]
    extras: list[str]

    @property
    def usable(self) -> bool:
        """Whether uv can read the version."""
        return _VERSION.fullmatch(self.version) is not None

    def metadata(self, name: str) -> str:
        """As in a package's ``METADATA``."""
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {self.version}"]
        lines += [f"Provides-Extra: {one}" for one in self.extras]
        lines += [f"Requires-Dist: {one}" for one in self.needs]
        return "\n".join(lines) + "\n"


_Distributions = TypeAdapter(dict[str, _Distribution])


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
        return (await self._ask_python(ABI, folder)).strip()

    async def installed(self, folder: Path) -> dict[str, str]:
        """Versions of what the engine's Python has, by name."""
        return {name: one.version for name, one in (await self._distributions(folder)).items()}

    async def _distributions(self, folder: Path) -> dict[str, _Distribution]:
        try:
            found = _Distributions.validate_json(await self._ask_python(_LIST, folder))
        except ValidationError:
            raise failed(_STEP, "ComfyUI's Python does not say which packages it has.") from None
        return {name: one for name, one in found.items() if one.usable}

    async def _ask_python(self, program: str, folder: Path) -> str:
        return await run(
            *(self._python, "-c", program),
            step=_STEP,
            what="ComfyUI's Python",
            cwd=folder,
            environ=self._environ,
            patience=_QUESTION,
        )

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
        distributions = await self._distributions(folder)
        there = {name: one.version for name, one in distributions.items()}
        pins = [f"{name}=={version}" for name, version in there.items()]
        await in_thread(_write, folder / CONSTRAINTS, pins)
        files = [pack / _FILE for pack in packs if (pack / _FILE).is_file()]
        if not files:
            return {}
        await in_thread(_show, distributions, folder / _SEEN)
        try:
            missing = await self._resolved(files, wanted, folder)
        finally:
            await in_thread(discard, folder / _SEEN)
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
            *("install", "--dry-run", "--output-format", "json", "--target", str(folder / _SEEN)),
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
                "uv, which installs the packs' requirements, is missing.",
                advice="Install it on the worker, beside Comfy Remote: pip install uv.",
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
    with stored(path, _STEP):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _show(distributions: Mapping[str, _Distribution], folder: Path) -> None:
    """Make a folder that looks to uv as if these were installed in it."""
    with stored(folder, _STEP):
        for name, one in distributions.items():
            about = folder / f"{name.replace('-', '_')}-{one.version}.dist-info"
            about.mkdir(parents=True)
            (about / "METADATA").write_text(one.metadata(name), encoding="utf-8")
            (about / "RECORD").write_text("", encoding="utf-8")


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
