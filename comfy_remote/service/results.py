"""The results of calls, on disk until they are old. A restart loses none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..calls.values import ValueFile
from ..errors import OutputLost
from ..media.file_changes import discard, rename_path
from ..media.files import storage_errors
from ..media.limited_folder import LimitedFolder
from ..media.values import DecodedValue, read_value
from ..types import JsonValue
from ..wire.call import INLINE_LIMIT
from ..wire.value import ValueEnvelope

__all__ = ["ResultStore"]

_LIST = "results.json"


class ResultStore:
    """A folder for each call, with a file for each key and a list. It appears complete.

    Args:
        folder: Its own; see `LimitedFolder`.
        room: Bytes of all results together.
    """

    def __init__(self, folder: Path, *, room: int = 64 * 1024**3) -> None:
        self.folder = LimitedFolder(folder, room)

    def keep(self, call_id: str, folder: Path, results: Mapping[str, ValueFile]) -> None:
        """Store a call's results, unless another process of the service has stored them.

        Args:
            folder: With the results and nothing else, below `folder`; it is moved.

        Raises:
            LocalStorageError: They cannot be stored.
        """
        listed = {
            key: {"file": one.path.name, "size": one.size, "sha256": one.sha256, "type": one.type}
            for key, one in results.items()
        }
        there = self.folder.path / call_id
        with storage_errors(there):
            (folder / _LIST).write_text(json.dumps(listed), encoding="utf-8")
            self.folder.added(sum(one.size for one in results.values()))
            try:
                rename_path(folder, there)
            except OSError:
                if self.get(call_id) is not None:
                    return
                discard(there)  # of a process that was killed
                rename_path(folder, there)

    def get(self, call_id: str) -> dict[str, ValueFile] | None:
        """The results of a call; ``None`` if there are none here."""
        folder = self.folder.path / call_id
        try:
            listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return {
            key: ValueFile(folder / one["file"], one["size"], one["sha256"], one["type"])
            for key, one in listed.items()
        }

    def one(self, call_id: str, key: str) -> ValueFile:
        """One result.

        Raises:
            OutputLost: There is none of that key, or no longer.
        """
        found = (self.get(call_id) or {}).get(key)
        if found is None:
            raise OutputLost(
                f"The call's result {key!r} is not here, or no longer.",
                advice="Results are deleted some time after the call; call again.",
            )
        return found

    def envelopes(self, call_id: str, base: str) -> dict[str, JsonValue]:
        """The results of a call as an answer has them; this reads the small ones.

        Args:
            base: The address below which each is served by its key.
        """
        results = self.get(call_id) or {}
        return {key: _envelope(file, f"{base}/{_quoted(key)}") for key, file in results.items()}


def _envelope(file: ValueFile, url: str) -> JsonValue:
    if file.size > INLINE_LIMIT:
        return ValueEnvelope.linked(file.type, file.sha256, file.size, url).to_json()
    decoded = read_value(file.path, tensors="numpy", pixels=False)
    type_ = file.type if decoded.type == "*" else decoded.type
    value = _single(decoded)
    if isinstance(value, str | int | float | bool):
        if isinstance(value, float) and value - value != 0:  # JSON has no NaN
            return _inline(file, type_, url)
        return ValueEnvelope.identity(value, type_).to_json()
    return _inline(file, type_, url)


def _inline(file: ValueFile, type_: str, url: str) -> JsonValue:
    """An envelope with the bytes, and with the address, where people fetch it as a picture."""
    import base64

    return ValueEnvelope(
        type=type_,
        encoding="safetensors",
        data=base64.b64encode(file.path.read_bytes()).decode("ascii"),
        url=url,
        sha256=file.sha256,
        size=file.size,
    ).to_json()


def _single(decoded: DecodedValue) -> object:
    """The only item of a list of one, else the value."""
    if not decoded.is_list:
        return decoded.value
    items = decoded.value
    return items[0] if isinstance(items, list) and len(items) == 1 else items


def _quoted(key: str) -> str:
    from urllib.parse import quote

    return quote(key, safe="")
