"""Models from a bucket that is laid out like ComfyUI's models folder: a real S3 server."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from model_server import safetensors, sha256
from models_kit import ensure, files_in, library_for
from pydantic import SecretStr
from seaweedfs import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Server, seaweedfs
from yarl import URL

from comfy_remote.errors import ModelUnavailable
from comfy_remote.net.bucket import BucketSettings
from comfy_remote.ready.addresses import with_addresses
from comfy_remote.ready.lock import Lock, LockedModel
from comfy_remote.wire.repo_list import parse_repo_list
from comfy_remote.worker.models.http import Answer, ModelHttp
from comfy_remote.worker.models.link import Location
from comfy_remote.worker.models.settings import ModelSettings
from comfy_remote.worker.models.sources import understand

MODEL = safetensors(3_000_000)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("s3")) as server:
        for attempt in range(40):
            try:
                server.client.create_bucket(Bucket="models")
                server.client.put_object(
                    Bucket="models", Key="loras/with space+ö.safetensors", Body=MODEL
                )
                break
            except Exception:  # it listens before it can store
                if attempt == 39:
                    raise
                time.sleep(0.5)
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> BucketSettings:
    return BucketSettings(
        URL(s3.url),
        "models",
        "auto",
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=SecretStr(SECRET_ACCESS_KEY),
    )


@pytest.mark.parametrize(
    "link",
    [
        "r2:loras/with%20space+ö.safetensors",
        "{url}/models/loras/with%20space%2B%C3%B6.safetensors",
    ],
)
async def test_a_model_comes_from_the_bucket_by_a_signed_address(
    s3: S3Server, bucket: BucketSettings, tmp_path: Path, link: str
) -> None:
    library = library_for(tmp_path, bucket=bucket)
    answer = await ensure(library, f"lora {link.format(url=s3.url)}")
    assert answer.ensured == ["loras/with space+ö.safetensors"]
    assert files_in(tmp_path) == {"loras/with space+ö.safetensors": MODEL}
    kept = "".join(
        path.read_text(errors="replace")
        for path in (tmp_path / ".comfy-remote").rglob("*")
        if path.is_file()
    )
    assert "r2:models/loras/with" in kept
    for secret in (ACCESS_KEY_ID, SECRET_ACCESS_KEY, "X-Amz"):
        assert secret not in kept


async def test_models_below_a_prefix(bucket: BucketSettings, s3: S3Server, tmp_path: Path) -> None:
    s3.client.put_object(Bucket="models", Key="team/a/vae/ae.safetensors", Body=MODEL)
    below = replace(bucket, prefix="team/a")
    answer = await ensure(library_for(tmp_path, bucket=below), "vae r2:ae.safetensors")
    assert answer.fetched == ["vae/ae.safetensors"]
    assert files_in(tmp_path) == {"vae/ae.safetensors": MODEL}
    with pytest.raises(ModelUnavailable, match="models/team/a"):
        await ensure(
            library_for(tmp_path, bucket=below), f"lora {s3.url}/models/loras/a.safetensors"
        )


async def test_a_large_model_comes_from_the_bucket_in_parts(
    bucket: BucketSettings, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = safetensors(20_000_000, fill=random.Random(3).randbytes(1_000_003))
    s3.client.put_object(Bucket="models", Key="vae/large.safetensors", Body=large)
    asked: list[str | None] = []
    get = ModelHttp.get

    def noted(
        self: ModelHttp, location: Location, wanted: str | None = None, etag: str | None = None
    ) -> AbstractAsyncContextManager[Answer]:
        asked.append(wanted)
        return get(self, location, wanted, etag)

    monkeypatch.setattr(ModelHttp, "get", noted)
    await ensure(library_for(tmp_path, bucket=bucket), "vae r2:large.safetensors")
    assert (tmp_path / "vae" / "large.safetensors").read_bytes() == large
    assert len([one for one in asked if one]) == 1 + 5  # the probe, and 20 MB by 4 MiB


async def test_what_is_begun_is_resumed(bucket: BucketSettings, tmp_path: Path) -> None:
    import asyncio

    library = library_for(tmp_path, bucket=bucket)
    said: list[str] = []
    task = asyncio.create_task(ensure(library, "lora r2:with%20space+ö.safetensors", said))
    while not any("MB/3.0 MB" in words for words in said):
        assert not task.done()
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert files_in(tmp_path).keys() != {"loras/with space+ö.safetensors"}
    await ensure(library, "lora r2:with%20space+ö.safetensors")
    assert files_in(tmp_path) == {"loras/with space+ö.safetensors": MODEL}


async def test_what_the_bucket_lacks_and_a_wrong_key_are_told(
    bucket: BucketSettings, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailable, match="HTTP 404") as missing:
        await ensure(library_for(tmp_path, bucket=bucket), "vae r2:none.safetensors")
    assert "vae/none.safetensors" in missing.value.advice
    wrong = replace(bucket, secret_access_key=SecretStr("another-secret"))
    with pytest.raises(ModelUnavailable, match="HTTP 403") as denied:
        await ensure(library_for(tmp_path, bucket=wrong), "lora r2:with%20space+ö.safetensors")
    assert "R2_SECRET_ACCESS_KEY" in denied.value.advice
    assert "another-secret" not in str(denied.value)
    with pytest.raises(ModelUnavailable, match="does not lead into"):
        await ensure(
            library_for(tmp_path, bucket=bucket), f"vae {bucket.endpoint}/other/vae/a.safetensors"
        )


async def test_a_lock_names_what_the_bucket_has(bucket: BucketSettings) -> None:
    # Civitai is asked by hash, too; nobody answers there.
    settings = ModelSettings(bucket=bucket, civitai=URL("http://127.0.0.1:9"))

    async def addresses(name: str, size: int | None) -> list[str]:
        model = LockedModel(folder="loras", name=name, size=size, sha256=sha256(MODEL))
        found = await with_addresses(Lock(models=(model,)), settings)
        assert found.notes == ("Not all models could be looked for: Civitai did not answer.",)
        return [f"{one.by} {one.url}" for one in found.lock.models[0].addresses]

    name = "with space+ö.safetensors"
    link = f"bucket r2:loras/{quote(name)}"
    assert await addresses(name, len(MODEL)) == [link]
    assert await addresses(name, len(MODEL) - 1) == []  # another file of that name
    assert await addresses("none.safetensors", len(MODEL)) == []
    # The address leads a worker to the file.
    line = parse_repo_list(f"loras {link.removeprefix('bucket ')}")[0]
    assert understand(line, settings).name == name
