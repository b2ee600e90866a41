"""What is stored, as the API shows it."""

from __future__ import annotations

from datetime import datetime

from ..wire.comfy_api import ApiOutput, Asset, JobUrls, OutputType
from .stored import StoredAsset

__all__ = ["job_metrics", "job_urls", "shown_asset", "shown_output"]


def shown_asset(asset: StoredAsset, base: str, *, created_new: bool | None = None) -> Asset:
    """An asset as the API describes it.

    The address of its bytes asks for the bearer token like any other, since an address that needs
    none would give the bytes to whoever reads a log or a history; so it is good for as long as the
    asset is.

    Args:
        base: The address of the API, as in all functions here: ``http://HOST:PORT/api/v2``.
    """
    return Asset(
        id=asset.id,
        hash=asset.hash,
        size_bytes=asset.size,
        content_type=asset.content_type,
        file_path=asset.file_path,
        created_new=created_new,
        created_at=asset.created,
        url=_content_url(base, asset.id),
        url_expires_at=asset.expires,
        expires_at=asset.expires,
        job_id=asset.job_id,
    )


def shown_output(asset: StoredAsset, base: str, expires: datetime | None = None) -> ApiOutput:
    """An asset that a job has made, as one of its outputs.

    Args:
        expires: Until when it is here, if that is later than the asset says.
    """
    return ApiOutput(
        node_id=asset.node_id or "",
        name=asset.file_path.rpartition("/")[2],
        type=asset.kind or OutputType.FILE,
        content_type=asset.content_type,
        size_bytes=asset.size,
        id=asset.id,
        hash=asset.hash,
        url=_content_url(base, asset.id),
        url_expires_at=expires or asset.expires,
        job_id=asset.job_id,
    )


def job_urls(job_id: str, base: str) -> JobUrls:
    """Where to ask about a job."""
    url = f"{base}/jobs/{job_id}"
    return JobUrls(self=url, events=f"{url}/events", cancel=f"{url}/cancel")


def job_metrics(
    created: float, started: float | None, run_seconds: float | None
) -> dict[str, int | None]:
    """How long a job waited and ran, in milliseconds.

    Args:
        created, started: Seconds since the epoch.
    """
    return {
        "queue_ms": None if started is None else max(0, round((started - created) * 1000)),
        "execution_ms": None if run_seconds is None else round(run_seconds * 1000),
    }


def _content_url(base: str, asset_id: str) -> str:
    return f"{base}/assets/{asset_id}/content"
