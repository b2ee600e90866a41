"""One pack's code: a version of the Comfy Registry, or a commit of a git repository.

Addresses come from whoever sent the job, or from the registry's and a repository's own words, so
each goes through the guard. git resolves names itself: it is given the IP address that was looked
at, follows no redirect, and speaks no protocol but http(s).
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin

from pydantic import ValidationError

from ...aio import in_thread, within
from ...errors import ComfyRemoteError, TargetError
from ...media.file_changes import discard
from ...net.address import shown
from ...net.fetch import NETWORK_ERRORS, GuardedHttp, TooLarge, arriving
from ...net.guard import Guard, proxy_for
from ...net.throughput import TooSlow
from ...wire.nodes import PackWanted, TakesNodes
from .install_custom_nodes import (
    LARGEST_ARCHIVE,
    CustomNode,
    RegistryError,
    address_of_archive,
    unpack,
    version_question,
)
from .settings import NodeSettings
from .steps import failed, run, stored

__all__ = ["PackFetcher", "ways_to_nodes"]

_REDIRECTS = 5
_LARGEST_ANSWER = 16 * 1024 * 1024  # bytes
_LARGEST_REPOSITORY = 4 * 1024**3  # bytes, with what is checked out
_DEEPEST = 4  # submodules of submodules
_MOST_SUBMODULES = 50
_SILENCE = 120  # seconds
_LOOK_EVERY = 3.0  # seconds
_REFS = "/info/refs"
_LINKED = re.compile(r"160000 commit ([0-9a-f]{40})\t(.+)")


class PackFetcher:
    """Fetches packs.

    Args:
        environ: Of the programs that are run, without secrets.
    """

    def __init__(self, settings: NodeSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._guard: Guard = settings.guard
        self._environ = {
            **environ,
            # Nobody is there to be asked, and no configuration of this machine counts.
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "LC_ALL": "C",
        }

    async def fetch(self, pack: PackWanted, target: Path) -> None:
        """Put a pack's code into a folder that does not exist.

        Raises:
            NodesUnavailable: It cannot be had; says why.
            LocalStorageError: The disk is full.
        """
        try:
            await within(self._fetch(pack, target), self._settings.patience.fetch)
        except asyncio.TimeoutError:
            seconds = self._settings.patience.fetch
            message = f"{pack} could not be fetched within {seconds:.0f} s."
            raise failed(_step(pack), message, pack=pack.name) from None

    async def _fetch(self, pack: PackWanted, target: Path) -> None:
        async with GuardedHttp(self._guard) as http:
            try:
                if not pack.by_commit:
                    await self._from_registry(http, pack, target)
                    return
                address = pack.source
                if pack.in_registry:
                    question = f"{self._settings.registry}/nodes/{pack.source}"
                    answer = await _json(http, question, pack)
                    address = _repository_in(answer, pack)
                await self._clone(http, pack, address, pack.version, target, depth=0)
            except RegistryError as error:
                raise failed("registry", f"{pack}: {error}.", pack=pack.name) from error
            except TargetError as error:
                raise _refused(pack, error) from error
            except TooLarge:
                raise failed(
                    _step(pack), f"{pack} is too large to be fetched.", pack=pack.name
                ) from None
            except (*NETWORK_ERRORS, TooSlow) as error:
                why = str(error) or type(error).__name__
                message = f"{pack} could not be fetched: {why}."
                raise failed(_step(pack), message, pack=pack.name) from error

    async def _from_registry(self, http: GuardedHttp, pack: PackWanted, target: Path) -> None:
        registry = self._settings.registry
        answer = await _json(http, version_question(pack.source, pack.version, registry), pack)
        address = address_of_archive(answer, CustomNode(pack.source, pack.version), registry)
        archive = target.with_name(f".{target.name}.zip")
        try:
            await _download(http, address, archive, pack)

            def unpacked() -> None:
                with stored(target, _step(pack), pack.name), archive.open("rb") as content:
                    target.mkdir(parents=True)
                    unpack(content, target)

            await in_thread(unpacked)
        finally:
            await in_thread(discard, archive)

    async def _clone(
        self, http: GuardedHttp, pack: PackWanted, url: str, commit: str, target: Path, depth: int
    ) -> None:
        """The one commit of a repository, not its history, with its submodules."""
        asked, pinned = await self._located(http, url, pack)
        with stored(target, _step(pack), pack.name):
            target.mkdir(parents=True, exist_ok=depth > 0)
        git = _Git(pack, target, self._environ, self._settings.patience.fetch)
        await git("init", "--quiet")
        await git("remote", "add", "origin", url)
        await git(*pinned, "fetch", "--quiet", "--depth", "1", "--no-tags", asked, commit)
        await git("checkout", "--quiet", "--detach", "FETCH_HEAD")
        if depth < _DEEPEST and (target / ".gitmodules").is_file():
            for path, address, its_commit in await _submodules(git, url):
                await self._clone(http, pack, address, its_commit, target / path, depth + 1)

    async def _located(
        self, http: GuardedHttp, url: str, pack: PackWanted
    ) -> tuple[str, list[str]]:
        """A repository's address after its redirects, and arguments for git that lead it to the
        IP address that was looked at."""
        what = f"The address of {pack.name}"
        question = f"{url.rstrip('/')}{_REFS}?service=git-upload-pack"
        async with http.request("GET", question, what=what, redirects=_REDIRECTS) as answer:
            status, found = answer.response.status, answer.way[-1]
        if status in (401, 403, 404):
            raise failed(
                "git",
                f"There is no public repository at {shown(url)} (HTTP {status}).",
                pack=pack.name,
                advice="Check the address. Private repositories cannot be installed from.",
            )
        if status != 200 or not found.path.endswith(_REFS):
            raise failed("git", f"{shown(url)} answered with HTTP {status}.", pack=pack.name)
        address = found.with_path(found.path.removesuffix(_REFS), encoded=False).with_query(None)
        pinned = []
        if proxy_for(address) is None:
            ips = await in_thread(self._guard.resolved, address.raw_host or "", address.port or 443)
            ip = f"[{ips[0]}]" if ":" in ips[0] else ips[0]
            host = f"{address.raw_host}:{address.port}"
            pinned = ["-c", f"http.curloptResolve={host}:{ip}"]
        return str(address), pinned


class _Git:
    """git in one folder."""

    def __init__(
        self, pack: PackWanted, folder: Path, environ: Mapping[str, str], patience: float
    ) -> None:
        self._pack = pack
        self._folder = folder
        self._environ = environ
        self._patience = patience

    async def __call__(self, *arguments: str) -> str:
        """Run it; what it wrote."""
        safe = [
            *("-c", "protocol.allow=never", "-c", "protocol.https.allow=always"),
            *("-c", "protocol.http.allow=always", "-c", "http.followRedirects=false"),
            # Should this process be killed meanwhile, a server that never ends does not keep git.
            *("-c", "http.lowSpeedLimit=1000", "-c", f"http.lowSpeedTime={_SILENCE}"),
            *("-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "maintenance.auto=false"),
        ]
        command = next(one for one in arguments if one != "-c" and "=" not in one)
        running = run(
            "git",
            *safe,
            *arguments,
            step="git",
            what=f"{self._pack}: git {command}",
            cwd=self._folder,
            environ=self._environ,
            patience=self._patience,
            pack=self._pack.name,
        )
        watching = asyncio.ensure_future(self._too_large())
        work = asyncio.ensure_future(running)
        try:
            await asyncio.wait({work, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                raise TooLarge
            return await work
        finally:
            for one in (work, watching):
                one.cancel()
            await asyncio.gather(work, watching, return_exceptions=True)

    async def _too_large(self) -> None:
        """Return once the folder is larger than a pack may be."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if await in_thread(_size, self._folder) > _LARGEST_REPOSITORY:
                return


def ways_to_nodes() -> frozenset[TakesNodes]:
    """How packs can be fetched on this machine. Blocking."""
    return frozenset({"registry", "git"} if shutil.which("git") else {"registry"})


async def _submodules(git: _Git, url: str) -> Sequence[tuple[str, str, str]]:
    """Path, address and commit of each submodule."""
    said = await git("config", "-z", "-f", ".gitmodules", "--list")  # which may be empty
    entries: dict[str, dict[str, str]] = {}
    for line in said.split("\0"):
        key, _, value = line.partition("\n")
        section, _, name_and_field = key.partition(".")
        name, _, field = name_and_field.rpartition(".")
        if section == "submodule":
            entries.setdefault(name, {})[field] = value
    tree = await git("ls-tree", "-r", "-z", "HEAD")
    linked = filter(None, map(_LINKED.match, tree.split("\0")))
    commits = {one[2]: one[1] for one in linked}
    found = list[tuple[str, str, str]]()
    for entry in entries.values():
        path, address = entry.get("path", ""), entry.get("url", "")
        if path in commits and ".." not in PurePosixPath(path).parts:
            whole = urljoin(f"{url.rstrip('/')}/", address)  # "../other.git" is beside it
            found.append((path, whole, commits[path]))
    return found[:_MOST_SUBMODULES]


async def _json(http: GuardedHttp, url: str, pack: PackWanted) -> Mapping[str, object]:
    """The registry's answer.

    Raises:
        RegistryError: It is not one.
    """
    what = "The registry's address"
    async with http.request("GET", url, what=what, redirects=_REDIRECTS) as answer:
        if answer.response.status == 404:
            raise RegistryError(f"the registry has no pack {pack.source}")
        if answer.response.status != 200:
            raise RegistryError(f"the registry answered with HTTP {answer.response.status}")
        content = bytearray()
        async for chunk in arriving(
            answer.response.content.iter_chunked(64 * 1024), largest=_LARGEST_ANSWER
        ):
            content += chunk
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise RegistryError(f"the registry's answer about {pack.source} cannot be read")
    return said


def _repository_in(answer: Mapping[str, object], pack: PackWanted) -> str:
    """The address of a pack's repository, as the registry has it.

    Raises:
        RegistryError: It has none.
    """
    try:
        return PackWanted(source=str(answer.get("repository")), version=pack.version).source
    except ValidationError:
        raise RegistryError(
            f"the registry has no repository of {pack.source}: ask for it by its address"
        ) from None


async def _download(http: GuardedHttp, address: str, path: Path, pack: PackWanted) -> None:
    what = f"The archive of {pack.name}"
    async with http.request("GET", address, what=what, redirects=_REDIRECTS) as answer:
        if answer.response.status != 200:
            raise RegistryError(f"{shown(address)} answered with HTTP {answer.response.status}")
        with stored(path, _step(pack), pack.name), path.open("wb") as file:
            async for chunk in arriving(
                answer.response.content.iter_chunked(256 * 1024), largest=LARGEST_ARCHIVE
            ):
                await asyncio.to_thread(file.write, chunk)


def _step(pack: PackWanted) -> str:
    return "git" if pack.by_commit else "registry"


def _refused(pack: PackWanted, error: TargetError) -> ComfyRemoteError:
    """An address that may not be used."""
    return failed(_step(pack), error.message, pack=pack.name, advice=str(error.advice))


def _size(folder: Path) -> int:
    """Bytes below a folder, as far as they can be counted. Blocking."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.lstat().st_size
        except OSError:
            continue
    return size
