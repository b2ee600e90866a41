"""What ``comfy-remote sync`` is to bring, and whether its owner has agreed to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import say
from .options import load_typed, packed_lock, typed_name

if TYPE_CHECKING:
    from ..ready.lock import Lock
    from ..ready.locking import LockPlan
    from ..ready.sync.steps import SyncPlan
    from ..wire.nodes import PackWanted

__all__ = ["Needed", "pins"]


@dataclass(frozen=True)
class Needed:
    """What is needed, and who says so.

    Attributes:
        files: The workflows, or the lock, that name it: they may have come from somebody.
        given: The node packs that were named on the command line, as the owner is asked for them.
    """

    lock: Lock
    files: tuple[Path, ...]
    given: frozenset[str]

    @classmethod
    def read(
        cls,
        workflows: Sequence[Path],
        lock_file: Path | None,
        packs: Sequence[PackWanted],
        *,
        comfyui: Path | None,
        offline: bool,
        json_lines: bool,
    ) -> Needed:
        """What is named on the command line; workflows that bring no lock are locked here.

        Args:
            packs: Named there themselves, besides workflows or a lock.
            comfyui: As `LockPlan` has it, like ``offline``.
            json_lines: Whether no progress is shown meanwhile.
        """
        from ..ready.lock import read_lock
        from ..ready.locking import LockPlan
        from ..ready.pins import named_pin, with_packs

        files: tuple[Path, ...]
        if lock_file is not None:
            files, lock = (lock_file,), read_lock(lock_file)
        else:
            files = tuple(Path(typed_name(one)) for one in workflows)
            locking = LockPlan(comfyui=comfyui, offline=offline)
            lock = _lock_of(workflows, locking, json_lines=json_lines)
        given = frozenset(map(named_pin, packs))
        return cls(with_packs(lock, packs) if packs else lock, files, given)

    def only(self, kinds: frozenset[str]) -> Lock:
        """The lock without what is not to be brought."""
        fields = {"pack": "packs", "model": "models"}
        left_out = {field: () for kind, field in fields.items() if kind not in kinds}
        return self.lock.model_copy(update=left_out) if left_out else self.lock

    def check_trust(self, plan: SyncPlan) -> None:
        """Check that the owner has agreed to each pack that would be installed, and to each address
        that a packed workflow names: ``--yes`` was typed before anything was shown.

        Raises:
            NotTrusted: They have not.
        """
        from ..advice import Hint
        from ..config.folders import home
        from ..config.trust import TrustStore, not_trusted
        from ..workflow.load import is_packed

        store, missing = TrustStore(home()), [one for one in plan.code if one not in self.given]
        if any(one.is_file() and is_packed(one) for one in self.files):
            missing += plan.addresses()
        for path in self.files:
            missing = store.missing(path, missing)
        if missing:
            what = f"What would be brought to {plan.plan.target}"
            raise not_trusted(self.files[0], missing, what, store, Hint.TRUST_PACKS())

    def trust(self, plan: SyncPlan) -> None:
        """Note what a person has seen and agreed to."""
        from ..config.folders import home
        from ..config.trust import TrustStore

        code = [one for one in plan.code if one not in self.given]
        code += plan.addresses(shown=True)
        store = TrustStore(home())
        if code and store.missing(self.files[0], code):
            store.trust(self.files[0], code)


def _lock_of(workflows: Sequence[Path], plan: LockPlan, *, json_lines: bool) -> Lock:
    """What all of them need."""
    from ..ready.lock import Lock
    from .lock import lock_of

    # A packed workflow says exactly what it needs; this machine's ComfyUI may have other files.
    locks = {one: packed_lock(one) for one in workflows}
    without = [one for one, lock in locks.items() if lock is None]
    known = [lock for lock in locks.values() if lock is not None]
    if without:
        loaded = [load_typed(one) for one in without]
        made = lock_of(loaded, [typed_name(one) for one in without], plan, json_lines=json_lines)
        for words in made.notes:
            say(f"warning: {words}")
        known.append(made.lock)
    return Lock.of_all(known)


def pins(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> tuple[PackWanted, ...]:
    """The value of an option that names node packs."""
    if not given:
        return ()
    from ..ready.pins import parse_pin

    try:
        return tuple(parse_pin(one) for one in given)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from None
