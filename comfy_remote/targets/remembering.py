"""The hook for targets that remember what they did with a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .route.book import Book

__all__ = ["Remembers"]


@runtime_checkable
class Remembers(Protocol):
    """A target that writes down what it does with a job, and must know it later.

    A target knows nothing of the record, which stands above it. Whoever opens one through the
    record (`jobs.client.Client`) hands it a book that writes there; without that, its own is in
    memory, and what it did is forgotten with it.
    """

    def remember_in(self, book: Book) -> None:
        """Use this book from now on. Called before the target is opened."""
