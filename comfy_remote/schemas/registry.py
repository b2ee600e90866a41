"""What the Comfy Registry says about the node classes of packs.

It is asked for a pack's classes where the workflow names pack and version, else for the class; and
for the pack that has a class. No key is needed, and nothing is sent but these names. Answers are
cached: a version's classes do not change.

Source of facts: the registry's published API (``/nodes/{pack}/versions/{version}/comfy-nodes``,
``/nodes/{pack}/install``, ``/comfy-nodes``, ``/comfy-nodes/{class}/node``).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from ..aio import within
from ..errors import ComfyRemoteError, TargetError
from ..types import JsonValue, as_list, mapping, mappings
from .store import Store

if TYPE_CHECKING:
    from ..net.fetch import GuardedHttp

__all__ = ["REGISTRY_VARIABLE", "Asked", "AskedPacks", "Pack", "RegisteredPack", "Registry"]

REGISTRY_VARIABLE: Final = "COMFY_REMOTE_REGISTRY"
"""``off``, or the address of another registry."""
_ADDRESS = "https://api.comfy.org"
_TIMEOUT = 15.0
_MAX_BYTES = 8 * 1024 * 1024
_MAX_QUESTIONS = 40
_PAGE = 100
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*([-+.][0-9A-Za-z.]+)?")

Pack = tuple[str, "str | None"]
"""A pack's id in the registry, and the version that a workflow was saved with."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was found.

    Attributes:
        classes: As in ``/object_info``.
        asked: Whether the registry itself was asked, or only its answers on disk.
        problem: Why not all questions were answered; empty if they were.
    """

    classes: Mapping[str, JsonValue]
    asked: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RegisteredPack:
    """A pack as the registry knows it.

    Attributes:
        version: Its newest.
        repository: Its address, as whoever published it says.
    """

    id: str
    version: str | None
    repository: str | None


@dataclass(frozen=True, slots=True)
class AskedPacks:
    """The packs that have some classes, as far as they are known; ``problem`` as in `Asked`."""

    packs: Mapping[str, RegisteredPack]
    problem: str = ""


class Registry:
    """The registry, with its answers in the user's data folder.

    An address that the user has named may be in a private network.
    """

    def __init__(self, home: Path, address: str = _ADDRESS) -> None:
        self.address = address.rstrip("/")
        self._packs = Store(home / "schemas" / "packs", most=200, age=timedelta(days=30))
        self._classes = Store(home / "schemas" / "classes", most=500, age=timedelta(days=2))

    @classmethod
    def of(cls, home: Path, environment: Mapping[str, str] = os.environ) -> Registry | None:
        """The one that the environment names; ``None`` if it is switched off."""
        chosen = environment.get(REGISTRY_VARIABLE, "").strip()
        if chosen.lower() in ("off", "no", "false", "0"):
            return None
        return cls(home, chosen or _ADDRESS)

    async def classes(self, wanted: Mapping[str, Pack | None]) -> Asked:
        """The schemas of classes, as far as known, in 15 seconds; ``wanted`` has their packs."""
        questions = _Questions(self.address, self._packs, self._classes)
        problem = await _problem_of(questions.ask(wanted))
        return Asked(questions.found, questions.count > 0, problem)

    async def packs_of(self, classes: Iterable[str]) -> AskedPacks:
        """The pack that each of some classes is of, as far as known, in 15 seconds."""
        questions = _Questions(self.address, self._packs, self._classes)
        problem = await _problem_of(questions.ask_for_packs(classes))
        return AskedPacks(questions.packs, problem)


async def _problem_of(asking: Coroutine[object, object, None]) -> str:
    """Ask; why not all was answered, empty if it was."""
    try:
        await within(asking, _TIMEOUT)
    except asyncio.TimeoutError:
        return f"it did not answer within {_TIMEOUT:g} s"
    except ComfyRemoteError as error:
        return error.message
    return ""


class _Questions:
    """One round of questions, and the answers so far."""

    def __init__(self, address: str, packs: Store, classes: Store) -> None:
        self._address = address
        self._packs = packs
        self._classes = classes
        self.found: dict[str, JsonValue] = {}
        self.packs: dict[str, RegisteredPack] = {}
        self.count = 0

    def _http(self) -> GuardedHttp:
        from yarl import URL

        from ..net.fetch import GuardedHttp
        from ..net.guard import Guard

        home = URL(self._address)
        own = frozenset({f"{home.raw_host}:{home.port}"}) if self._address != _ADDRESS else None
        return GuardedHttp(Guard(own or frozenset()), patience=_TIMEOUT)

    async def ask_for_packs(self, classes: Iterable[str]) -> None:
        async with self._http() as http:
            for name in dict.fromkeys(classes):
                if (pack := await self._pack_of(http, name)) is not None:
                    self.packs[name] = pack

    async def _pack_of(self, http: GuardedHttp, name: str) -> RegisteredPack | None:
        key = f"{self._address} pack of {name}"
        if (stored := await asyncio.to_thread(self._classes.get, key)) is not None:
            answer = stored.document
        else:
            path = f"/comfy-nodes/{quote(name, safe='')}/node"
            whole = await self._get(http, path) or {}
            newest = mapping(whole.get("latest_version")).get("version")
            answer = {
                "id": whole.get("id"),
                "version": newest,
                "repository": whole.get("repository"),
            }
            await asyncio.to_thread(self._classes.put, key, answer)
        pack_id, version, address = (answer.get(one) for one in ("id", "version", "repository"))
        if not isinstance(pack_id, str):
            return None
        return RegisteredPack(
            pack_id,
            version if isinstance(version, str) else None,
            address if isinstance(address, str) and address else None,
        )

    async def ask(self, wanted: Mapping[str, Pack | None]) -> None:
        async with self._http() as http:
            for pack in dict.fromkeys(pack for pack in wanted.values() if pack is not None):
                for name, schema in (await self._pack(http, *pack)).items():
                    if name in wanted:
                        self.found[name] = schema
            for name in wanted:
                if name not in self.found:
                    schema = await self._class(http, name)
                    if schema is not None:
                        self.found[name] = schema

    async def _pack(
        self, http: GuardedHttp, pack: str, version: str | None
    ) -> Mapping[str, JsonValue]:
        if "/" in pack:
            return {}  # a repository: the registry knows it by another name
        if version is None or not _VERSION.fullmatch(version):
            version = await self._newest(http, pack)
        if version is None:
            return {}
        key = f"{self._address} {pack}@{version}"
        if (stored := await asyncio.to_thread(self._packs.get, key)) is not None:
            return stored.document
        path = f"/nodes/{quote(pack, safe='')}/versions/{quote(version, safe='')}/comfy-nodes"
        classes: dict[str, JsonValue] = {}
        page = pages = 1
        while page <= pages:
            answer = await self._get(http, f"{path}?page={page}&limit={_PAGE}")
            if answer is None:
                return {}
            classes.update(_schemas(answer, pack))
            total = answer.get("totalNumberOfPages")
            pages = total if isinstance(total, int) else 1
            page += 1
        await asyncio.to_thread(self._packs.put, key, classes)
        return classes

    async def _newest(self, http: GuardedHttp, pack: str) -> str | None:
        key = f"{self._address} {pack}"
        if (stored := await asyncio.to_thread(self._classes.get, key)) is not None:
            version = stored.document.get("version")
        else:
            answer = await self._get(http, f"/nodes/{quote(pack, safe='')}/install") or {}
            version = answer.get("version")
            await asyncio.to_thread(self._classes.put, key, {"version": version})
        return version if isinstance(version, str) else None

    async def _class(self, http: GuardedHttp, name: str) -> JsonValue:
        key = f"{self._address} class {name}"
        if (stored := await asyncio.to_thread(self._classes.get, key)) is None:
            answer = await self._get(http, f"/comfy-nodes?comfy_node_name={quote(name, safe='')}")
            found = _schemas(answer or {}, None)
            await asyncio.to_thread(self._classes.put, key, {"schema": found.get(name)})
            return found.get(name)
        return stored.document.get("schema")

    async def _get(self, http: GuardedHttp, path: str) -> dict[str, JsonValue] | None:
        """An answer; ``None`` if the registry does not know of it.

        Raises:
            TargetError: It cannot be asked, or answers with something else.
        """
        from ..net.fetch import NETWORK_ERRORS, TooLarge, arriving

        self.count += 1
        if self.count > _MAX_QUESTIONS:
            raise TargetError(f"it would take more than {_MAX_QUESTIONS} questions")
        try:
            async with http.request(
                "GET", f"{self._address}{path}", what="The Comfy Registry", redirects=2
            ) as answer:
                if answer.response.status == 404:
                    return None
                if answer.response.status != 200:
                    raise TargetError(f"it answered with status {answer.response.status}")
                chunks = arriving(answer.response.content.iter_any(), largest=_MAX_BYTES)
                data = b"".join([chunk async for chunk in chunks])
        except TooLarge:
            raise TargetError("its answer is too large") from None
        except NETWORK_ERRORS as error:
            raise TargetError(f"it cannot be reached ({type(error).__name__})") from error
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            raise TargetError("its answer is not JSON") from None
        return document if isinstance(document, dict) else None


def _schemas(answer: Mapping[str, JsonValue], pack: str | None) -> dict[str, JsonValue]:
    """The classes in an answer, as ``/object_info`` has them. Of several, the last counts."""
    found: dict[str, JsonValue] = {}
    for entry in mappings(answer.get("comfy_nodes")):
        name, inputs = entry.get("comfy_node_name"), _from_text(entry.get("input_types"))
        if not isinstance(name, str) or not isinstance(inputs, dict):
            continue
        outputs = _from_text(entry.get("return_types"))
        schema: dict[str, JsonValue] = {
            "input": inputs,
            "output": as_list(outputs),
            "output_name": as_list(_from_text(entry.get("return_names"))),
            "name": name,
            "output_node": True if _saves(inputs, outputs) else None,
        }
        if pack is not None:
            schema["python_module"] = f"custom_nodes.{pack}"
        found[name] = schema
    return found


def _saves(inputs: Mapping[str, JsonValue], outputs: JsonValue) -> bool:
    """Whether a class is an output, which the registry does not say.

    Classes that save ask for what they embed; classes that only show something have no outputs.
    """
    embeds = {"prompt", "extra_pnginfo"} & mapping(inputs.get("hidden")).keys()
    return bool(embeds) or outputs == []


def _from_text(value: JsonValue) -> JsonValue:
    """The value of a JSON text, as the registry has it; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        parsed: JsonValue = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return parsed
