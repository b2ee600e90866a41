"""How what we have made in an account is found again, from any machine, whatever got lost."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from ...errors import ConfigurationError
from ...targets.kinds import kind_of

__all__ = ["MARK_VARIABLE", "Mark", "checked_name"]

MARK_VARIABLE = "COMFY_REMOTE_DEPLOYMENT"
"""In the environment of an endpoint's workers: a `Mark`."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}")
_MARK = re.compile(rf"({_NAME.pattern})/([0-9a-f]{{12}})")
_VOLUME = re.compile(rf"comfy-remote-({_NAME.pattern})-([0-9a-f]{{12}})")


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of one deployment.

    Attributes:
        name: What its user calls it: one an account.
        nonce: Drawn once, and written down before anything is made.
    """

    name: str
    nonce: str

    @classmethod
    def new(cls, name: str) -> Mark:
        """One that nothing carries yet."""
        return cls(name, uuid.uuid4().hex[:12])

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """``NAME/NONCE``, as an endpoint's environment has it; ``None`` for any other text."""
        match = _MARK.fullmatch(text)
        return None if match is None else cls(match[1], match[2])

    @classmethod
    def of_volume(cls, called: str) -> Mark | None:
        """That in the name of a volume, which has no environment."""
        match = _VOLUME.fullmatch(called)
        return None if match is None else cls(match[1], match[2])

    def __str__(self) -> str:
        """As an endpoint's environment has it."""
        return f"{self.name}/{self.nonce}"

    @property
    def volume(self) -> str:
        """What a volume is called."""
        return f"comfy-remote-{self.name}-{self.nonce}"


def checked_name(name: str) -> str:
    """A name that a deployment and a target can have.

    Raises:
        ConfigurationError: It has other characters, or too many; or it is an address.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a deployment.",
            advice="Use letters, digits, '-', '_' and '.', beginning with a letter or digit; at "
            "most 48.",
        )
    if kind_of(name) is not None:
        raise ConfigurationError(
            f"{name!r} is an address itself, so no target can be called that.",
            advice="Choose another name.",
        )
    return name
