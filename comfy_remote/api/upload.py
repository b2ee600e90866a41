"""An upload as it arrives: a form with a file and the fields that describe it, in any order."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from aiohttp import BodyPartReader, web

from ..errors import RequestTooLarge, WorkflowInvalid
from ..gateway.forms import form_parts, part_chunks
from ..wire.comfy_api import EXPIRES_IN, blake3_digits
from .assets import Arrived, AssetStore
from .errors import ApiRefusal
from .server import sent_key
from .stored import StoredAsset

__all__ = ["checked_file_path", "receive_upload"]

_FORM_BYTES = 2**18  # of everything but the file
_MOST_PARTS = 200
_LONGEST_PATH = 1000
_FILE = "file"
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CONTENT_TYPE = re.compile(
    rf'{_NAME}/{_NAME}(?: *; *{_NAME}=(?:{_NAME}|"[\x20-\x21\x23-\x5b\x5d-\x7e]*"))*'
)
_LONGEST_CONTENT_TYPE = 200


@dataclass
class _Fields:
    """The fields of the form besides its file, each checked as it comes.

    Other parts are ignored, `tags` among them: nothing in the API gives them back.
    """

    values: dict[str, str] = field(default_factory=dict)
    size: int = 0
    parts: int = 0

    def begins(self, name: str) -> None:
        """Count a part."""
        self.parts += 1
        if self.parts > _MOST_PARTS:
            raise _invalid(f"The form has more than {_MOST_PARTS} parts.")
        if name in self.values:
            raise _invalid(f"The form has two parts named {name}.")
        if name == _FILE or name in _CHECKS:
            self.values[name] = ""

    async def read(self, name: str, part: BodyPartReader, pause: float) -> None:
        """Read a part that is no file."""
        content = bytearray()
        async for chunk in part_chunks(part, pause):
            self.size += len(chunk)
            if self.size > _FORM_BYTES:
                raise RequestTooLarge(
                    f"The parts of the form besides {_FILE} have more than {_FORM_BYTES} bytes."
                )
            content += chunk
        if name in _CHECKS:
            text = content.decode("utf-8", "replace").strip()
            _CHECKS[name](text)
            self.values[name] = text

    def get(self, name: str) -> str:
        """What the form must say."""
        if name not in self.values:
            raise _missing(name)
        return self.values[name]


async def receive_upload(request: web.Request, store: AssetStore) -> tuple[StoredAsset, bool]:
    """The asset that a request uploads, and whether its bytes are new, too.

    Raises:
        ApiRefusal: ``invalid_request``, ``hash_mismatch``, ``idempotency_key_reuse``.
        RequestTooLarge: The file is larger than the store takes.
        RateLimited: There is no room for it now.
    """
    announced = request.content_length or 0
    if announced > store.limits.file_bytes + _FORM_BYTES:
        raise RequestTooLarge(
            f"A file of more than {store.limits.file_bytes} bytes is not taken.",
            advice="Send a smaller one.",
            details={"limit": store.limits.file_bytes},
        )
    await store.check_room(max(1, announced))
    key, pause = sent_key(request), store.limits.pause
    fields = _Fields()
    arrived: Arrived | None = None
    async with store.using_key(key), AsyncExitStack() as stack:
        try:
            async for name, part in form_parts(request, pause):
                fields.begins(name)
                if name == _FILE:
                    arriving = store.arriving(part_chunks(part, pause))
                    arrived = await stack.enter_async_context(arriving)
                else:
                    await fields.read(name, part, pause)
        except RequestTooLarge:
            raise
        except WorkflowInvalid as error:
            raise ApiRefusal("invalid_request", str(error)) from error
        if arrived is None:
            raise _missing(_FILE)
        return await store.add(
            arrived,
            content_type=fields.get("content_type"),
            file_path=checked_file_path(fields.get("file_path")),
            expected_hash=fields.values.get("expected_hash"),
            expires_in=float(seconds) if (seconds := fields.values.get("expires_in")) else None,
            key=key,
        )


def checked_file_path(path: str) -> str:
    """A ``file_path`` as a hint for a name; whatever else is wrong with it is made safe later.

    Raises:
        ApiRefusal: It is empty, or too long; or it asks for a model to be put somewhere.
    """
    if not path or len(path) > _LONGEST_PATH:
        raise _invalid(
            f"file_path must have from 1 to {_LONGEST_PATH} characters.", field="file_path"
        )
    first, *rest = re.split(r"[\\/]+", path.lstrip("\\/"))
    if first.lower() == "models" and rest:
        raise _invalid(
            "This server places no models: they are on the target already, or a worker fetches "
            "them. Upload inputs under another path.",
            field="file_path",
        )
    # Paths of the API begin at the root that ComfyUI's folders share.
    return "/".join(rest) if first.lower() == "input" and "".join(rest) else path


def _check_content_type(text: str) -> None:
    if len(text) > _LONGEST_CONTENT_TYPE or not _CONTENT_TYPE.fullmatch(text):
        raise _invalid("content_type must be one such as image/png.", field="content_type")


def _check_expected_hash(text: str) -> None:
    if blake3_digits(text) is None:
        raise _invalid("expected_hash must be blake3: and 64 hex digits.", field="expected_hash")


def _check_expires_in(text: str) -> None:
    least, most = EXPIRES_IN
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and least <= int(text) <= most):
        raise _invalid(
            f"expires_in must be a whole number of seconds from {least} to {most}.",
            field="expires_in",
        )


_CHECKS: dict[str, Callable[[str], object]] = {
    "content_type": _check_content_type,
    "file_path": checked_file_path,
    "expected_hash": _check_expected_hash,
    "expires_in": _check_expires_in,
}


def _missing(name: str) -> ApiRefusal:
    return _invalid(f"The form has no part named {name}.", field=name)


def _invalid(message: str, *, field: str | None = None) -> ApiRefusal:
    return ApiRefusal(
        "invalid_request", message, details=None if field is None else {"field": field}
    )
