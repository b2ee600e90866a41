"""An output of a job: still on the target, or here, complete and checked."""

from __future__ import annotations

import asyncio
import base64
import io
import os
from dataclasses import field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..data_class import dataclass
from ..errors import ConfigurationError, OutputCorrupt
from ..media.files import place_below, safe_relative_path
from ..media.temporary import TemporaryFolder
from ..outputs import OutputKind, RemoteOutput

if TYPE_CHECKING:
    import numpy
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image
    from typing_extensions import Self

    from .job import Job

__all__ = ["JobOutput", "Output"]

_MOST_SHOWN_BYTES = 4 * 1024 * 1024
_MOST_SHOWN_TEXT = 10_000
_SHOWN_SIDE = 1024


@dataclass(frozen=True)
class Output:
    """One file (or one text) that a job produced.

    The bytes are in a temporary folder, which is removed with the last output of the job;
    `save` stores them.

    Attributes:
        node_id: The node that produced it, ``None`` if the worker does not say.
        kind: image, video, audio, 3d, text or file.
        filename: As the target named it.
        subfolder: Below the target's output folder; may be empty.
        folder: ``output`` for saved files, ``temp`` for previews.
        media_type: For example ``image/png``.
        size: Bytes.
        sha256: Of the bytes, 64 lower-case hex digits; checked against the target's where
            it announced one.
    """

    node_id: str | None
    kind: OutputKind
    filename: str
    subfolder: str
    folder: str
    media_type: str
    size: int
    sha256: str
    _path: Path = field(repr=False)
    _spool: TemporaryFolder | None = field(repr=False, compare=False)

    def save(self, folder: Path | str) -> Path:
        """Write it below ``folder``, in its subfolder, readable by you alone (mode 0600).

        On Windows, those may read it who may read the folder.

        Written whole or not at all. A file of the same name is never replaced: with equal
        content it is left, with another the new one gets the time in its name.

        Returns:
            Where it is now.

        Raises:
            LocalStorageError: It cannot be written (disk full, no permission, a link leads out).
        """
        relative = safe_relative_path(self.filename, self.subfolder)
        # On Windows, a link would have the access list of the temporary folder: yours alone.
        link = os.name != "nt"
        return place_below(self._path, Path(folder), relative, self.sha256, link=link)

    def bytes(self) -> bytes:
        """The content, all of it in memory."""
        return self._path.read_bytes()

    def text(self) -> str:
        """The content as UTF-8 text; what is not UTF-8 is replaced by U+FFFD."""
        return self._path.read_text(encoding="utf-8", errors="replace")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What a notebook shows of it: the picture, made smaller if it is large; a player; a text.

        At most a few megabytes go into the notebook.
        """
        del include, exclude  # a notebook takes what it can show
        shown = {"text/plain": repr(self)}
        if self.kind == "text":
            with self._path.open(encoding="utf-8", errors="replace") as file:
                shown["text/plain"] = file.read(_MOST_SHOWN_TEXT)
        elif self.kind == "image" and (picture := self._shown_picture()):
            shown[picture[0]] = picture[1]
        elif self.kind in ("video", "audio") and self.size <= _MOST_SHOWN_BYTES:
            data = base64.b64encode(self.bytes()).decode("ascii")
            import html  # here, as in `events`: only a notebook needs it

            source = f"data:{html.escape(self.media_type)};base64,{data}"
            shown["text/html"] = f'<{self.kind} controls src="{source}"></{self.kind}>'
        return shown

    def _shown_picture(self) -> tuple[str, str] | None:
        """Media type and base64; ``None`` of what cannot be decoded."""
        if self.size <= _MOST_SHOWN_BYTES and self.media_type in ("image/png", "image/jpeg"):
            return self.media_type, base64.b64encode(self.bytes()).decode("ascii")
        try:
            picture = self.image()
        except OutputCorrupt:
            return None
        picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
        data = io.BytesIO()
        picture.convert("RGB").save(data, "JPEG", quality=90)
        return "image/jpeg", base64.b64encode(data.getvalue()).decode("ascii")

    def image(self) -> Image:
        """The picture, decoded by Pillow.

        Raises:
            OutputCorrupt: It is no picture.
        """
        from ..media.images import open_image

        return open_image(self._path, self.filename)

    def array(self) -> NDArray[numpy.float32]:
        """The picture as ``[B, H, W, 3]`` float32 in ``0.0..1.0``, RGB; B frames.

        Raises:
            OutputCorrupt: It is no picture.
        """
        from ..media.images import image_array

        return image_array(self._path, self.filename)

    def tensor(self) -> torch.Tensor:
        """The picture as ComfyUI's IMAGE: ``[B, H, W, 3]`` float32 in ``0.0..1.0``, RGB, CPU.

        Raises:
            ConfigurationError: PyTorch is not installed here (`array` needs only NumPy).
            OutputCorrupt: It is no picture.
        """
        try:
            import torch
        except ImportError:
            raise ConfigurationError(
                "Output.tensor() needs PyTorch, which is not installed here.",
                advice="Install torch, or use Output.array(), which gives the same as NumPy.",
            ) from None
        return torch.from_numpy(self.array())


class JobOutput(RemoteOutput):
    """An output that exists on the target, as an `OutputReady` of a `Job` has it.

    It can be fetched while the job still runs. Equal to the same output in
    `Finished.outputs`.
    """

    __slots__ = ("_here", "_job", "_lock")

    # No fields: the job is in no repr, comparison or `asdict`.
    _here: Output | None
    _job: Job
    _lock: asyncio.Lock

    @classmethod
    def of(cls, output: RemoteOutput, job: Job) -> Self:
        """The same output, to be fetched through its job."""
        made = cls(*(getattr(output, one.name) for one in fields(RemoteOutput)))
        for name, value in (("_here", None), ("_job", job), ("_lock", asyncio.Lock())):
            object.__setattr__(made, name, value)
        return made

    async def fetch(self) -> Output:
        """Fetch it; once, however often it is called.

        Raises:
            OutputLost: The target does not have it.
            OutputError: It could not be fetched completely.
        """
        async with self._lock:
            here = self._here
            if here is None:
                here = await self._job.output(self)
                object.__setattr__(self, "_here", here)
            return here

    async def save(self, folder: Path | str) -> Path:
        """Fetch it, and write it below ``folder``: see `Output.save`.

        Raises:
            ComfyRemoteError: As `fetch`, and as `Output.save`.
        """
        here = await self.fetch()
        return await asyncio.to_thread(here.save, folder)
