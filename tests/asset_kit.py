"""Uploads to a store of the served Comfy API, without its routes."""

from __future__ import annotations

from collections.abc import AsyncIterable

from comfy_remote.api.assets import AssetStore
from comfy_remote.api.stored import StoredAsset

__all__ = ["receive"]


async def receive(
    store: AssetStore,
    chunks: AsyncIterable[bytes],
    *,
    content_type: str,
    file_path: str,
    expected_hash: str | None = None,
    expires_in: float | None = None,
) -> tuple[StoredAsset, bool]:
    """`AssetStore.arriving` and `AssetStore.add` in one."""
    async with store.arriving(chunks) as arrived:
        return await store.add(
            arrived,
            content_type=content_type,
            file_path=file_path,
            expected_hash=expected_hash,
            expires_in=expires_in,
        )
