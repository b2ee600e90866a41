"""What an engine says of itself: its ``/system_stats``, its ``/models``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..errors import TargetError
from ..secrets import redact
from ..types import JsonValue, mapping, mappings
from .engine_arguments import arguments_of, lasting_arguments

if TYPE_CHECKING:
    from ..wire.installed import Installed

__all__ = [
    "RUN_AT_START",
    "imported_packs",
    "imports_packs",
    "installed_of",
    "listed_models",
    "python_of",
]

RUN_AT_START = ("__init__.py", "prestartup_script.py")
"""What ComfyUI runs of a folder in ``custom_nodes`` when it starts (``nodes.py``, ``main.py`` of
0.33.0): hidden folders, too, and none that ends with ``.disabled``."""

# Its page, its templates and its help compute nothing.
_NO_LIBRARIES = ("frontend", "templates", "docs")


def installed_of(stats: Mapping[str, JsonValue]) -> Installed:
    """Versions and arguments; packs and models are not in there."""
    from ..wire.installed import Installed  # here: pydantic takes long to import

    system = mapping(stats.get("system"))
    torch = system.get("pytorch_version")
    return Installed(
        torch=torch if isinstance(torch, str) else None,
        python=python_of(stats),
        libraries={
            name: version
            for one in mappings(system.get("comfy_package_versions"))
            if isinstance(name := one.get("name"), str)
            and isinstance(version := one.get("installed"), str)
            and not any(word in name for word in _NO_LIBRARIES)
        },
        arguments=[redact(one) for one in lasting_arguments(arguments_of(stats))],
    )


def imports_packs(stats: Mapping[str, JsonValue]) -> bool:
    """Whether node packs are imported into it: not into the sandbox, which is all ours."""
    return "sandbox" not in mapping(stats.get("system"))


def imported_packs(files: Iterable[str]) -> set[str]:
    """The names of the packs that ComfyUI imports, with or without nodes.

    Args:
        files: All that are below ``custom_nodes``, relative to it.
    """
    found = set()
    for file in files:
        first, *rest = file.replace("\\", "/").split("/")
        if first.endswith(".disabled"):
            continue
        if (not rest and first.endswith(".py")) or (len(rest) == 1 and rest[0] in RUN_AT_START):
            found.add(first.removesuffix(".py"))
    return found


def listed_models(answer: JsonValue) -> list[str]:
    """The names in an answer of ``/models``, or of one of its folders.

    Raises:
        TargetError: It is not such an answer.
    """
    if not isinstance(answer, list) or not all(isinstance(one, str) for one in answer):
        raise TargetError(
            "The target's list of models is not ComfyUI's.", advice="Check the address."
        )
    return [str(one) for one in answer]


def python_of(stats: Mapping[str, JsonValue]) -> str | None:
    """``3.11.7``."""
    version = mapping(stats.get("system")).get("python_version")
    return version.split(" ")[0] if isinstance(version, str) and version else None
