"""The owner's own ``comfy-remote.toml``, as commands and the page change it.

Comments, order and what else is there stay. A folder's file is never written.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError, LocalStorageError
from ..media.files import storage_errors, write_whole
from ..targets.kinds import kind_of, members_of
from ..text_file import text_of
from .folders import CONFIG_NAME, CONFIG_VARIABLE, owner_folders
from .one_writer import one_writer
from .target_settings import TargetSettings

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

    from ..schedule.caps import Span

__all__ = ["OwnFile", "name_from", "own_path"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def own_path(environment: Mapping[str, str] = os.environ) -> Path:
    """The file that is changed: that of ``--config``; else the first of the owner's that exists;
    else the one in the owner's data folder, to be made.
    """
    if chosen := environment.get(CONFIG_VARIABLE):
        return Path(chosen).expanduser()
    paths = [folder / CONFIG_NAME for folder in owner_folders(environment)]
    return next((path for path in paths if path.is_file()), paths[0])


def name_from(words: str) -> str:
    """A target's name made of somebody's words; ``gpu`` if nothing of them can be in one."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", words).strip("-._").lower()[:64] or "gpu"


class OwnFile:
    """The file, read, to be changed and then written whole.

    Between the two, another program may change it, too: see `changing`.

    Args:
        path: `own_path` by default.

    Raises:
        ConfigurationError: It cannot be read, or says something unknown.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or own_path()
        self._document = _read(self.path)

    @classmethod
    @contextlib.contextmanager
    def changing(cls, path: Path | None = None) -> Iterator[OwnFile]:
        """The file, while nobody else changes it; written at the end, if nothing was raised.

        Blocking. Raises as the constructor, `write` and `one_writer`.
        """
        with one_writer():
            own = cls(path)
            yield own
            own.write()

    @property
    def targets(self) -> list[str]:
        """The names that it has."""
        return [str(name) for name in self._document.get("targets", {})]

    @property
    def default(self) -> str | None:
        """The name or address that is used where none is given, if it says one."""
        default = self._document.get("default")
        return None if default is None else str(default)

    def put(self, name: str, settings: TargetSettings) -> None:
        """Add a target, or change what one of that name is.

        Raises:
            ConfigurationError: The name cannot be used.
        """
        import tomlkit

        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} cannot be the name of a target.",
                advice="Use letters, digits, '-', '_' and '.', beginning with a letter or digit; "
                "at most 64.",
            )
        if kind_of(name) is not None:
            raise ConfigurationError(
                f"{name!r} is an address itself, so it cannot be the name of a target.",
                advice="Choose another name.",
            )
        targets = self._document.setdefault("targets", tomlkit.table(is_super_table=True))
        if name not in targets:
            inline = isinstance(targets, tomlkit.items.InlineTable)
            targets[name] = tomlkit.inline_table() if inline else tomlkit.table()
        table = targets[name]
        members = members_of(settings)
        if members:
            table["route"] = list(members)
        else:
            table.pop("route", None)
        for field in fields(TargetSettings):
            value = getattr(settings, field.name)
            if field.name == "target" and members:
                value = None  # the route says it
            if value is None or value is False or value == {}:
                table.pop(field.name, None)
            elif isinstance(value, Mapping):
                # In one line: a table below would not fit into every form that a file may have.
                table[field.name] = tomlkit.inline_table()
                table[field.name].update(value)
            else:
                table[field.name] = value

    def check_has(self, name: str) -> None:
        """See that a target is in this file.

        Raises:
            ConfigurationError: It is not.
        """
        if name not in self.targets:
            raise ConfigurationError(
                f"{self.path} has no target {name!r}.",
                advice="Only this file is changed. If the target is listed, another file names it.",
            )

    def change_name(self, name: str, after: str) -> None:
        """Call a target something else, in routes as well; what its table says stays.

        Raises:
            ConfigurationError: There is none of that name in the file.
        """
        self.check_has(name)
        targets = self._document["targets"]
        targets[after] = targets.pop(name)
        for route in self.routes_with(name):
            members = targets[route]["route"]
            members[list(members).index(name)] = after

    def routes_with(self, name: str) -> list[str]:
        """The routes of this file that have a target as a member."""
        tables = self._document.get("targets", {})
        return [str(one) for one, table in tables.items() if name in table.get("route", [])]

    def remove(self, name: str) -> None:
        """Remove a target; and the default, if it was that.

        Raises:
            ConfigurationError: There is none of that name in the file.
        """
        self.check_has(name)
        del self._document["targets"][name]
        if self.default == name:
            self.make_default(None)

    def make_default(self, name: str | None) -> None:
        """Use this name or address where none is given; ``None`` for none."""
        self._set("default", name)

    def set_cap(self, span: Span, dollars: float | None, target: str | None = None) -> None:
        """Set what may be spent, or remove that cap with ``None``.

        Args:
            span: ``job``, ``day`` or ``month``.
            dollars: US dollars.
            target: For this one; for all together by default.

        Raises:
            ConfigurationError: There is no target of that name in the file.
        """
        key = f"cap_per_{span}"
        if target is None:
            self._set(key, dollars)
            return
        self.check_has(target)
        table = self._document["targets"][target]
        if dollars is None:
            table.pop(key, None)
        else:
            table[key] = dollars

    def _set(self, key: str, value: str | float | None) -> None:
        """Set or remove something that is said at the top."""
        import tomlkit

        if value is None:
            self._document.pop(key, None)
        elif key in self._document:
            self._document[key] = value
        else:
            # Before all tables: below one, it would be a key of that table.
            whole = tomlkit.document()
            whole[key] = value
            self._document = tomlkit.parse(tomlkit.dumps(whole) + "\n" + self.text.lstrip("\n"))

    @property
    def text(self) -> str:
        """What it would be."""
        import tomlkit

        return tomlkit.dumps(self._document)

    def check(self) -> None:
        """Raise `ConfigurationError` if what it would say is not allowed."""
        from .config_file import checked_config

        checked_config(self.text, self.path)

    def write(self) -> None:
        """Write it: whole, or not at all. Readable by its owner only.

        Raises:
            ConfigurationError: As `check`; nothing is written.
            LocalStorageError: It cannot be written.
        """
        self.check()
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A link stays one: what it leads to is written.
            write_whole(Path(os.path.realpath(self.path)), self.text.encode(), durable=True)


def _read(path: Path) -> TOMLDocument:
    import tomlkit

    from .config_file import read_config

    if not path.exists():
        return tomlkit.document()
    read_config(path)  # with its own words, if it cannot be used
    try:
        return tomlkit.parse(text_of(path.read_bytes()))
    except OSError as error:
        raise LocalStorageError(f"{path} cannot be read: {error.strerror or error}.") from error
