"""What the person who started the server allows; nothing that an agent says changes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config.settings import DEFAULT_TARGET, Configuration
from ..errors import ConfigurationError, NotTrusted
from ..net.address import shown
from ..schedule.caps import Cap
from ..workflow.files import names_another_machine

__all__ = ["Bounds"]

_LONGEST_NAME = 200  # letters, in a sentence
_STARTED = "that `comfy-remote mcp` was started with"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Folders, targets and dollars.

    Attributes:
        folders: Files are read and written below them alone; absolute, links followed.
        on: The target where an agent names none; ``None`` for the configured one.
        per_job: US dollars that a job may cost; ``None`` for no such limit.
        per_day: US dollars that all jobs of a day may cost, whoever has sent them.
        asks: Whether a person is asked, where the client can do that, for a job over a limit.
    """

    folders: tuple[Path, ...]
    on: str | None = None
    per_job: float | None = None
    per_day: float | None = None
    asks: bool = True

    @classmethod
    def of(
        cls,
        folders: Sequence[Path],
        *,
        on: str | None = None,
        per_job: float | None = None,
        per_day: float | None = None,
        asks: bool = True,
    ) -> Bounds:
        """With the folders as they are on the disk.

        Raises:
            ConfigurationError: One of them is not there.
        """
        real = []
        for folder in folders:
            path = Path(os.path.realpath(folder))
            if not path.is_dir():
                raise ConfigurationError(f"There is no folder {folder}.", advice="Check the path.")
            real.append(path)
        return cls(tuple(dict.fromkeys(real)), on, per_job, per_day, asks)

    @property
    def limited(self) -> bool:
        """Whether any limit was given; without one, nothing that costs money is sent."""
        return self.per_job is not None or self.per_day is not None

    # Dollars

    def caps(self, agreed: float | None = None) -> tuple[Cap, ...]:
        """The server's own caps.

        Args:
            agreed: US dollars that a person has agreed to for this job, instead of them.
        """
        if agreed is not None:
            return (Cap(agreed, "job", None, "what a person has agreed to"),)
        if not self.limited:
            return (Cap(0.0, "job", None, "the limit: `comfy-remote mcp` was started without one"),)
        caps = []
        if self.per_job is not None:
            caps.append(Cap(self.per_job, "job", None, f"the --cap-per-job {_STARTED}"))
        if self.per_day is not None:
            caps.append(Cap(self.per_day, "day", None, f"the --cap-per-day {_STARTED}"))
        return tuple(caps)

    def configured(self, agreed: float | None = None) -> Configuration:
        """The configuration as it is now, with the server's caps beside its own. Blocking.

        A job that would go over one while it runs is cancelled.

        Raises:
            ConfigurationError: A file cannot be read.
        """
        read = Configuration.load()
        caps = (*read.caps, *self.caps(agreed))
        return replace(read, caps=caps, on_cap={None: "cancel"})

    # Targets

    def target(self, named: str | None, configuration: Configuration) -> str:
        """The name of the target that is meant, if the owner has named it.

        Raises:
            NotTrusted: The owner has not; the advice has the command for a person.
        """
        if named is None:
            return self.on or configuration.choose(None)
        if named in configuration.targets or named in (self.on, DEFAULT_TARGET):
            return named
        configuration.settings_of(named)  # of an untrusted file: it says which, and what to do
        for name, settings in configuration.targets.items():
            if settings.target == named:
                return name
        raise NotTrusted(
            f"{shown(named)!r} is no target that the owner of this machine has named, and no tool "
            "can add one.",
            advice=f"A person can, in a terminal: comfy-remote targets add NAME {shown(named)}",
        )

    # Files

    def file(self, named: str) -> Path:
        """A file of one of the folders, as it is on the disk. Blocking.

        Args:
            named: Relative to one of the folders, or absolute.

        Raises:
            ConfigurationError: It is not there, outside of them, or hidden.
        """
        outside = False
        for path in self._places(named):
            if not os.path.isfile(path):  # noqa: PTH113  # unlike `Path`, it takes any text
                continue
            if self._allows(path):
                return path
            outside = True
        why = (
            "is outside of the folders that this server may use, or hidden"
            if outside
            else "is not there"
        )
        raise self._refused(named, why)

    def folder(self, named: str | None) -> Path:
        """Where outputs go: below one of the folders. It need not exist. Blocking.

        Raises:
            ConfigurationError: It is outside of them, or hidden.
        """
        if named is None:
            return self.folders[0] / "output"
        for path in self._places(named):
            if self._allows(path):
                return path
        raise self._refused(named, "is outside of the folders that this server may use, or hidden")

    def may_read(self, path: Path) -> bool:
        """Whether a file, links followed, is below one of the folders and not hidden. Blocking."""
        return self._allows(Path(os.path.realpath(path)))

    def _places(self, named: str) -> list[Path]:
        if names_another_machine(named) or "\0" in named:
            return []
        return [Path(os.path.realpath(folder / named)) for folder in self.folders]

    def _allows(self, real: Path) -> bool:
        for folder in self.folders:
            if real.is_relative_to(folder):
                return not any(part.startswith(".") for part in real.relative_to(folder).parts)
        return False

    def _refused(self, named: str, why: str) -> ConfigurationError:
        folders = ", ".join(map(str, self.folders))
        return ConfigurationError(
            f"{named[:_LONGEST_NAME]!r} {why}. The folders: {folders}.",
            advice="Name a file below them. A person can start the server with another --folder.",
        )
