"""What the API says instead of an answer."""

from __future__ import annotations

from collections.abc import Mapping

from ..types import JsonValue

__all__ = ["ApiRefusal"]


class ApiRefusal(Exception):
    """A request is refused, with one of the API's own codes.

    Args:
        code: ``not_found``, ``missing_asset``, …: see the document of the API.
        retry_after: Seconds, for the header of that name.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, JsonValue] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = None if details is None else dict(details)
        self.retry_after = retry_after
