"""Which state of a node pack's code a lock names: one that can be installed as it is. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from pydantic import ValidationError

from ..json_text import problems_in
from ..wire.nodes import PackWanted
from .lock import Lock, LockedPack

__all__ = ["Unpinned", "named_pin", "parse_pin", "pin_of", "with_packs"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOOPBACK = re.compile(r"http://(127\.0\.0\.1|localhost|\[::1\])[:/]")
_NEWEST = "see registry.comfy.org/nodes/{id}"
_MOST_CLASSES, _LONGEST_CLASS = 2000, 300  # of a `PackWanted`


class Unpinned(ValueError):
    """The lock does not say exactly which code is meant; the message is a clause that says why, and
    what to write into the lock.
    """


def pin_of(pack: LockedPack, by: Collection[str] = ("registry", "git")) -> PackWanted:
    """The exact state of a pack: a commit of its repository, else a version of the Comfy Registry.

    A commit goes first: a checkout says the version that it was made from, and may be newer.

    Args:
        by: How it can be got (`wire.nodes.TakesNodes`).

    Raises:
        Unpinned: The lock does not say enough, or what it says cannot be installed.
    """
    tried: list[str] = []
    for source, version in _candidates(pack):
        try:
            wanted = PackWanted(source=source, version=version, classes=_classes(pack))
        except ValidationError as error:
            tried.append(problems_in(error, "it"))
            continue
        if ("git" if wanted.by_commit else "registry") in by:
            return wanted
        tried.append(
            "it is named by a commit, and git is not there"
            if wanted.by_commit
            else "it is named by a version of the Comfy Registry, and that is not asked there"
        )
    raise Unpinned(_why(pack, tried))


def parse_pin(text: str) -> PackWanted:
    """``NAME@VERSION`` of the Comfy Registry, ``URL@COMMIT`` or ``NAME@COMMIT``.

    Raises:
        ValueError: It is none of these.
    """
    source, _, version = text.strip().rpartition("@")
    try:
        return PackWanted(source=source, version=version)
    except ValidationError as error:
        raise ValueError(problems_in(error, text)) from None


def with_packs(lock: Lock, given: Sequence[PackWanted]) -> Lock:
    """The lock with packs that somebody has named, in place of its own of the same names.

    If the lock does not know whose some nodes are, one named pack that it has not is theirs.
    """
    packs = list(lock.packs)
    unknown = [pack for pack in packs if not pack.is_known]
    known = {name for pack in packs for name in _folders(pack)}
    further = [one for one in given if one.name.casefold() not in known]
    no_doubt = len(unknown) == len(further) == 1
    for one in given:
        same = [pack for pack in packs if one.name.casefold() in _folders(pack)]
        if no_doubt and one in further:
            same = unknown
        classes = dict.fromkeys(name for pack in same for name in pack.classes)
        source = {"id": one.source} if one.in_registry else {"url": one.source}
        version = {"commit": one.version} if one.by_commit else {"version": one.version}
        new = LockedPack.model_validate({**source, **version, "classes": tuple(classes)})
        packs = [*(pack for pack in packs if pack not in same), new]
    return lock.model_copy(update={"packs": tuple(packs)}).sorted()


def _folders(pack: LockedPack) -> set[str]:
    """What its folder may be called, in small letters."""
    last = re.sub(r"(\.git)?/*$", "", pack.url or "").rpartition("/")[2]
    return {name.casefold() for name in (pack.id, pack.folder, last) if name}


def named_pin(wanted: PackWanted | str) -> str:
    """A pack (``NAME@VERSION``, ``URL@COMMIT``) as an owner is asked to trust it: another version
    of it is other code.
    """
    return f"pack {wanted}"


def _classes(pack: LockedPack) -> tuple[str, ...]:
    """Those that a worker is to find: a request has room for so many, of such a length."""
    return tuple(one for one in pack.classes if len(one) <= _LONGEST_CLASS)[:_MOST_CLASSES]


def _candidates(pack: LockedPack) -> list[tuple[str, str]]:
    found = []
    url = pack.url if pack.url is not None and _anybody_can_fetch(pack.url) else None
    whole = pack.commit if pack.commit and _COMMIT.fullmatch(pack.commit) else None
    if url and whole:
        found.append((url, whole))
    if pack.id and pack.version:
        found.append((pack.id, pack.version.removeprefix("v")))
    if pack.id and whole:
        found.append((pack.id, whole))
    return found


def _anybody_can_fetch(url: str) -> bool:
    """Whether it is https; a server on that machine itself may be plain http."""
    return url.startswith("https://") or _LOOPBACK.match(url) is not None


def _why(pack: LockedPack, tried: list[str]) -> str:
    if not pack.is_known:
        return (
            "it is not known which pack has them: look for it at registry.comfy.org, and write its "
            "id and version into the lock"
        )
    if tried:
        return f"what the lock says of it cannot be installed: {tried[0]}"
    if pack.id is None and pack.url is None:
        return (
            f"neither its repository nor its id in the Comfy Registry is known: copy its folder, "
            f"{pack.folder}, to custom_nodes there"
        )
    if pack.url is not None and not _anybody_can_fetch(pack.url) and pack.commit:
        return f"{pack.url} takes a login that is only here: write its https address into the lock"
    if pack.id is not None:
        there = _NEWEST.format(id=pack.id)
        return f"the lock does not say its version: write it into the lock ({there})"
    if pack.commit:
        return "the lock has only the first digits of its commit: write all 40 into the lock"
    return (
        "the lock does not say its commit: write it into the lock (git ls-remote shows them), or "
        "make the lock again where it is installed"
    )
