"""The files that came with a job: decoded, checked, and put where the engine's client finds them.

Nothing here trusts a name: files lie on disk under numbers, and a name that would not stay
below a folder is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

from ..errors import InputFileMissing, WorkflowInvalid
from ..media.files import safe_relative_path, storage_errors
from ..targets.base import InputFile
from ..wire.request import InputFileSent, JobRequest

__all__ = ["decode_inputs"]

_ASCII_SPACE = str.maketrans("", "", " \t\r\n")


def sent_files(request: JobRequest) -> list[InputFileSent]:
    """What a request sends, in both of its forms, as one list.

    Raises:
        WorkflowInvalid: A name would not stay below a folder.
    """
    images = [
        InputFileSent(name=image.name, data=image.image, sha256=image.sha256)
        for image in request.images
    ]
    return [
        file.model_copy(update={"name": _checked_name(file.name)})
        for file in [*images, *request.files]
    ]


def decode_inputs(request: JobRequest, folder: Path) -> list[InputFile]:
    """Decode each file into ``folder``.

    A file sent twice under one name is taken once.

    Args:
        request: Base64, with or without a ``data:`` prefix; line breaks are allowed.
        folder: Exists, and is private to the job.

    Raises:
        WorkflowInvalid: A name is unsafe, a file is not base64, is empty, or does not match
            its SHA-256, or two different files have the same name.
        LocalStorageError: The disk is full.
    """
    files: dict[str, InputFile] = {}
    for number, sent in enumerate(sent_files(request)):
        path = folder / f"input-{number}"
        file = _decode(sent, path)
        known = files.setdefault(file.name, file)
        if known.sha256 != file.sha256:
            raise WorkflowInvalid(
                f"Two different files are named {file.name}.",
                advice="Give each file a name of its own.",
                details={"name": file.name},
            )
    return list(files.values())


def _decode(sent: InputFileSent, path: Path) -> InputFile:
    if sent.data is None:
        raise InputFileMissing(f"{sent.name} was not sent.")
    content = _decoded(sent.name, sent.data)
    sha256 = hashlib.sha256(content).hexdigest()
    if sent.sha256 is not None and sent.sha256 != sha256:
        raise WorkflowInvalid(
            f"The file {sent.name} arrived damaged: its SHA-256 is {sha256}, and {sent.sha256} "
            "was announced.",
            advice="Send it again.",
            details={"name": sent.name},
        )
    with storage_errors(path):
        path.write_bytes(content)
    return InputFile(name=sent.name, path=path, size=len(content), sha256=sha256)


def _checked_name(name: str) -> str:
    plain = name.replace("\\", "/")
    if str(safe_relative_path(plain)) != plain:
        raise WorkflowInvalid(
            f"{name!r} cannot be the name of an input file.",
            advice="Use a plain file name, or a relative path with / in it.",
            details={"name": name},
        )
    return plain


def _decoded(name: str, text: str) -> bytes:
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise _not_base64(name, "its data: URI is not base64")
    try:
        content = base64.b64decode(text.translate(_ASCII_SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _not_base64(name, str(error)) from None
    if not content:
        raise _not_base64(name, "it is empty")
    return content


def _not_base64(name: str, reason: str) -> WorkflowInvalid:
    return WorkflowInvalid(
        f"The file {name} could not be decoded: {reason}.",
        advice='Send its bytes as base64, with or without "data:image/png;base64," before them.',
        details={"name": name},
    )
