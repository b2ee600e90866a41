"""Hugging Face, Civitai and other links; tokens, which stay with the site they are for."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.resolver import ThreadedResolver
from model_server import File, ModelServer, safetensors, sha256
from models_kit import (
    CIVITAI_TOKEN,
    HF_TOKEN,
    endpoints,
    ensure,
    files_in,
    library_for,
    settings_for,
)

from comfy_remote.errors import ComfyRemoteError, ConfigurationError, ModelUnavailable
from comfy_remote.wire.repo_list import ModelLine, parse_repo_list
from comfy_remote.worker.models.settings import ModelSettings
from comfy_remote.worker.models.sources import understand

MODEL = safetensors()


@pytest.fixture
async def site() -> AsyncIterator[ModelServer]:
    """Hugging Face, or Civitai."""
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def storage() -> AsyncIterator[ModelServer]:
    """Where it redirects to."""
    async with ModelServer() as server:
        yield server


pytestmark = pytest.mark.usefixtures("quick_retries")


def identity(url: str, kind: str = "lora", **changes: object) -> str:
    return understand(ModelLine(1, kind, url), ModelSettings(**changes)).identity


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/org/repo/blob/main/sub/a.safetensors",
        "https://huggingface.co/org/repo/resolve/main/sub/a.safetensors?download=true",
        "https://hf.co/org/repo/resolve/main/sub/a.safetensors",
        "hf:org/repo/sub/a.safetensors",
        "hf:org/repo/sub/a.safetensors@main",
    ],
)
def test_the_ways_to_write_a_file_on_hugging_face_mean_the_same(url: str) -> None:
    assert identity(url) == "hf:org/repo/sub/a.safetensors@main"


def test_revisions_and_data_sets_are_understood() -> None:
    assert identity("hf:o/r/a.bin@refs%2Fpr%2F3") == "hf:o/r/a.bin@refs/pr/3"
    assert identity("https://huggingface.co/datasets/o/r/blob/v1/a.bin").startswith(
        "hf:datasets/o/r/a.bin@v1"
    )


@pytest.mark.parametrize(
    "url",
    [
        *("https://huggingface.co/org/repo", "hf:org/repo"),
        "https://huggingface.co/org/repo/tree/main",
        # Other addresses there, which would be asked for with the worker's token.
        *("hf:api/whoami-v2?/a.bin", "hf:../api/a.bin", "hf:o/r#/a.bin", "hf:o/r%3f/a.bin"),
        *("hf:o/r/../../../../api/whoami-v2", "hf:o/r/%2e%2e/a.bin", "hf:o/r/a.bin@.."),
        "https://huggingface.co/o/r/resolve/main/%2e%2e/%2e%2e/%2e%2e/%2e%2e/api/whoami-v2",
        "https://huggingface.co/o/r/resolve/main/..%2f..%2f..%2f..%2fapi/whoami-v2",
    ],
)
def test_a_repository_is_no_file(url: str) -> None:
    with pytest.raises(ModelUnavailable, match="not the address of a file"):
        identity(url)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("https://civitai.com/models/58390/detail-tweaker?modelVersionId=62833", "civitai:62833"),
        ("https://civitai.com/api/download/models/62833", "civitai:62833"),
        ("https://www.civitai.com/api/download/models/62833?token=abc", "civitai:62833"),
        (
            "https://civitai.com/api/download/models/62833?type=Model&format=SafeTensor&token=abc",
            "civitai:62833?type=Model,format=SafeTensor",
        ),
        ("https://civitai.com/models/58390", "civitai:model/58390"),
        ("https://civitai.red/models/58390?modelVersionId=62833", "civitai:62833"),
    ],
)
def test_civitais_pages_and_api_links_mean_a_version(url: str, meant: str) -> None:
    assert identity(url) == meant


@pytest.mark.parametrize(
    "path",
    ["models/{}", "api/download/models/{}", "models/1?modelVersionId={}"],
)
def test_a_number_of_thousands_of_digits_is_no_model(path: str) -> None:
    with pytest.raises(ModelUnavailable):
        identity(f"https://civitai.com/{path.format('9' * 5000)}")


async def test_sizes_of_thousands_of_digits_are_not_counted_with(
    site: ModelServer, tmp_path: Path
) -> None:
    huge = "9" * 5000
    site.files["/b.safetensors"] = File(MODEL, ranges=False, sized=False)
    site.redirects["/a.safetensors"] = (f"{site.url}/b.safetensors", {"X-Linked-Size": huge})
    await ensure(library_for(tmp_path, site), f"lora {site.url}/a.safetensors")
    assert files_in(tmp_path) == {"loras/a.safetensors": MODEL}


def test_a_signature_in_a_link_is_not_kept() -> None:
    kept = identity("https://x.example/a.safetensors?X-Amz-Signature=planted")
    assert kept.startswith("https://x.example/a.safetensors?")
    assert "planted" not in kept
    assert kept != identity("https://x.example/a.safetensors?X-Amz-Signature=other")


async def test_hugging_faces_hash_is_checked_and_its_token_goes_nowhere_else(
    site: ModelServer, storage: ModelServer, tmp_path: Path
) -> None:
    path = "/org/repo/resolve/main/sub/a.safetensors"
    linked = {"X-Linked-Etag": f'"{sha256(MODEL)}"', "X-Linked-Size": str(len(MODEL))}
    site.redirects[path] = (f"{storage.url}/blob?signature=s%2Fs", linked)
    storage.files["/blob"] = File(MODEL, etag='"cdn"')
    library = library_for(tmp_path, storage, **endpoints(site))

    await ensure(library, "ckpt hf:org/repo/sub/a.safetensors")

    assert files_in(tmp_path) == {"checkpoints/a.safetensors": MODEL}
    assert all(a.headers.get("Authorization") == f"Bearer {HF_TOKEN}" for a in site.asked)
    assert storage.asked
    assert all("Authorization" not in a.headers for a in storage.asked)
    assert {a.query for a in storage.asked} == {"signature=s%2Fs"}

    storage.files["/blob"] = File(MODEL[:-1] + b"\x00", etag='"cdn"')
    with pytest.raises(ModelUnavailable, match=f"should be {sha256(MODEL)}"):
        await ensure(library, "ckpt hf:org/repo/sub/a.safetensors name=b.safetensors")


@pytest.mark.parametrize(("token", "advice"), [(HF_TOKEN, "gated"), ("", "set HF_TOKEN")])
async def test_a_gated_file_says_what_to_do(
    site: ModelServer, tmp_path: Path, token: str, advice: str
) -> None:
    from pydantic import SecretStr

    site.files["/org/repo/resolve/main/a.safetensors"] = File(MODEL, token="another")
    library = library_for(tmp_path, site, **endpoints(site), hugging_face_token=SecretStr(token))
    with pytest.raises(ModelUnavailable, match="HTTP 401") as caught:
        await ensure(library, "ckpt hf:org/repo/a.safetensors")
    assert advice in caught.value.advice
    assert HF_TOKEN not in str(caught.value)


def civitai(site: ModelServer, storage: ModelServer, *, api: bool = True) -> None:
    version = {
        "id": 62833,
        "files": [
            {"name": "train.zip", "type": "Training Data", "hashes": {}},
            {"name": "old.ckpt", "metadata": {"format": "PickleTensor"}, "hashes": {}},
            {
                "name": "add_detail.safetensors",
                "primary": True,
                "metadata": {"format": "SafeTensor", "size": "full", "fp": "fp16"},
                "hashes": {"SHA256": sha256(MODEL).upper(), "CRC32": "0"},
            },
        ],
    }
    if api:
        site.json["/api/v1/model-versions/62833"] = version
        site.json["/api/v1/models/58390"] = {"id": 58390, "modelVersions": [version]}
    site.redirects["/api/download/models/62833"] = (f"{storage.url}/blob?sig=1", {})
    disposition = 'attachment; filename="../add_detail.safetensors"'
    storage.files["/blob"] = File(MODEL, headers={"Content-Disposition": disposition})


@pytest.mark.parametrize(
    ("link", "api"),
    [
        ("/models/58390?modelVersionId=62833", True),
        ("/models/58390/add-detail", True),
        ("/api/download/models/62833?token=in-the-link", True),
        ("/api/download/models/62833", False),
    ],
)
async def test_civitais_redirect_is_followed_without_the_token(
    site: ModelServer, storage: ModelServer, tmp_path: Path, link: str, api: bool
) -> None:
    civitai(site, storage, api=api)
    library = library_for(tmp_path, storage, **endpoints(site))
    answer = await ensure(library, f"lora https://civitai.com{link}")
    assert answer.ensured == ["loras/add_detail.safetensors"]
    assert files_in(tmp_path) == {"loras/add_detail.safetensors": MODEL}
    assert all(a.headers["Authorization"] == f"Bearer {CIVITAI_TOKEN}" for a in site.asked)
    assert all("Authorization" not in a.headers for a in storage.asked)
    assert not any("in-the-link" in a.query for a in [*site.asked, *storage.asked])
    # Known by where it came from, though the link does not tell its name.
    site.asked.clear()
    assert (await ensure(library, f"lora https://civitai.com{link}")).fetched == []
    assert site.asked == []


@pytest.mark.parametrize("download", [None, False])
async def test_a_run_finds_what_somebody_put_there_also_by_a_link_that_tells_no_name(
    site: ModelServer, storage: ModelServer, tmp_path: Path, download: bool | None
) -> None:
    civitai(site, storage, api=True)
    library = library_for(tmp_path, storage, download=download, **endpoints(site))
    lines = parse_repo_list("lora https://civitai.com/models/58390?modelVersionId=62833")
    with pytest.raises(ModelUnavailable, match="is not on this worker") as caught:
        await library.ensure_for_run(lines, lambda _: None)
    assert "DOWNLOAD_MODELS" in caught.value.advice
    assert files_in(tmp_path) == {}
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras/add_detail.safetensors").write_bytes(MODEL)
    answer = await library.ensure_for_run(lines, lambda _: None)
    assert answer.ensured == ["loras/add_detail.safetensors"]


async def test_a_run_that_cannot_learn_a_models_name_asks_for_it(
    site: ModelServer, tmp_path: Path
) -> None:
    library = library_for(tmp_path, **endpoints(site))
    lines = parse_repo_list("lora https://civitai.com/models/58390")
    with pytest.raises(ModelUnavailable, match="name is not known") as caught:
        await library.ensure_for_run(lines, lambda _: None)
    assert "name=FILE" in caught.value.advice


async def test_civitais_hash_is_checked(
    site: ModelServer, storage: ModelServer, tmp_path: Path
) -> None:
    civitai(site, storage)
    storage.files["/blob"] = File(safetensors(fill=b"\x01"))
    with pytest.raises(ModelUnavailable, match="SHA-256"):
        await ensure(
            library_for(tmp_path, storage, **endpoints(site)),
            "lora https://civitai.com/api/download/models/62833",
        )
    assert files_in(tmp_path) == {}


async def test_civitais_login_page_asks_for_the_token(
    site: ModelServer, storage: ModelServer, tmp_path: Path
) -> None:
    from pydantic import SecretStr

    site.redirects["/api/download/models/1"] = ("/login?returnUrl=x&reason=download-auth", {})
    library = library_for(tmp_path, storage, **endpoints(site), civitai_token=SecretStr(""))
    with pytest.raises(ModelUnavailable, match="a login page") as caught:
        await ensure(library, "lora https://civitai.com/api/download/models/1")
    assert "CIVITAI_TOKEN" in caught.value.advice


async def test_a_name_that_the_server_gives_stays_in_the_folder(
    site: ModelServer, tmp_path: Path
) -> None:
    site.files["/download"] = File(
        MODEL, headers={"Content-Disposition": 'attachment; filename="../../x/evil.safetensors"'}
    )
    answer = await ensure(library_for(tmp_path, site), f"lora {site.url}/download?id=3")
    assert answer.ensured == ["loras/evil.safetensors"]
    site.files["/nameless"] = File(MODEL)
    with pytest.raises(ModelUnavailable, match="does not say what") as caught:
        await ensure(library_for(tmp_path, site), f"lora {site.url}/nameless")
    assert "name=" in caught.value.advice
    site.files["/program"] = File(
        MODEL, headers={"Content-Disposition": 'attachment; filename="run.py"'}
    )
    with pytest.raises(ComfyRemoteError, match="not the name of a model"):
        await ensure(library_for(tmp_path, site), f"lora {site.url}/program")


@pytest.mark.parametrize(
    "url",
    [
        "http://models.example/a.safetensors",
        "http://127.0.0.1:1/a.safetensors",
        "https://localhost/a.safetensors",
        "https://169.254.169.254/latest/a.safetensors",
        "https://10.0.0.1/a.safetensors",
        "https://[::ffff:10.0.0.1]/a.safetensors",
        "https://me:password@models.example/a.safetensors",
        "https://0x7f.1/a.safetensors",
    ],
)
async def test_private_and_plain_addresses_are_not_asked(tmp_path: Path, url: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        await ensure(library_for(tmp_path), f"lora {url}?secret=planted")
    assert "COMFY_REMOTE_MODEL_HOSTS" in caught.value.advice
    assert "planted" not in str(caught.value)
    assert "password" not in str(caught.value).replace("a user name or a password", "")


async def test_plain_http_is_asked_only_where_a_hash_proves_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(self: object, host: str, port: int = 0, family: int = 0) -> list[object]:
        return [{"hostname": host, "host": "10.0.0.1", "port": port}]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    line = "lora http://models.example/a.safetensors"
    with pytest.raises(ModelUnavailable, match="not https"):
        await ensure(library_for(tmp_path), line)
    # Asked, had its name not led into a private network.
    with pytest.raises(ModelUnavailable, match="private network"):
        await ensure(library_for(tmp_path), f"{line} sha256={'0' * 64}")


@pytest.mark.parametrize("url", ["https://", "https:///a.bin", "http://x:port/a", "https://[::1/a"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ModelUnavailable, match="no usable address"):
        identity(url)


async def test_a_redirect_into_a_private_network_is_not_followed(
    site: ModelServer, storage: ModelServer, tmp_path: Path
) -> None:
    storage.files["/a.safetensors"] = File(MODEL)
    for target in (
        f"{storage.url}/a.safetensors",
        "http://169.254.169.254/x",
        "file:///etc/x",
        "http://x:y/",
    ):
        site.redirects["/a.safetensors"] = (target, {})
        with pytest.raises(ModelUnavailable):
            await ensure(library_for(tmp_path, site), f"lora {site.url}/a.safetensors")
    assert storage.asked == []


async def test_a_name_that_leads_to_a_private_address_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiohttp.resolver import ThreadedResolver

    async def private(self: object, host: str, port: int = 0, family: int = 0) -> list[object]:
        return [{"hostname": host, "host": "10.0.0.1", "port": port, "family": 2, "proto": 0}]

    monkeypatch.setattr(ThreadedResolver, "resolve", private)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelUnavailable, match="private network: models"):
        await ensure(library_for(tmp_path), "lora https://models.example/a.safetensors")


async def test_redirects_have_an_end(site: ModelServer, tmp_path: Path) -> None:
    site.redirects["/a.safetensors"] = ("/a.safetensors", {})
    with pytest.raises(ModelUnavailable, match="redirected more than"):
        await ensure(library_for(tmp_path, site), f"lora {site.url}/a.safetensors")


async def test_no_token_is_left_anywhere(
    site: ModelServer, storage: ModelServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    civitai(site, storage)
    said: list[str] = []
    library = library_for(tmp_path, storage, **endpoints(site))
    await ensure(library, "lora https://civitai.com/models/58390?token=in-the-link", said)
    storage.files["/blob"].cuts = [1000] + [0] * 20
    with pytest.raises(ModelUnavailable) as caught:
        await ensure(library, "lora https://civitai.com/models/58390?token=x name=b.safetensors")
    kept = "".join(
        path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()
    )
    logged = "".join(r.getMessage() for r in caplog.records if r.name.startswith("comfy_remote"))
    assert "add_detail" in logged
    everywhere = kept + logged + "".join(said) + str(caught.value) + str(caught.value.details)
    for secret in (CIVITAI_TOKEN, HF_TOKEN, "in-the-link", "sig=1"):
        assert secret not in everywhere


def test_settings_are_read_from_the_environment(tmp_path: Path) -> None:
    settings = ModelSettings.from_environ(
        {
            "COMFY_REMOTE_MODELS_DIR": str(tmp_path),
            "DOWNLOAD_MODELS": "True",
            "COMFY_REMOTE_MODEL_SIZE_LIMIT": "5000",
            "COMFY_REMOTE_MODEL_HOSTS": "nas.local:8443, other.local",
            "HF_ENDPOINT": "https://hf-mirror.example",
            "HF_TOKEN": " hf_x ",
            "CIVITAI_TOKEN": "c",
            "R2_ENDPOINT": "https://account.r2.cloudflarestorage.com",
            "R2_BUCKET": "models",
            "R2_ACCESS_KEY_ID": "id",
            "R2_SECRET_ACCESS_KEY": "secret-planted",
        }
    )
    assert settings.folder == tmp_path
    assert settings.download is True
    assert settings.size_limit == 5000
    assert settings.hugging_face_token.get_secret_value() == "hf_x"
    assert {"nas.local:8443", "other.local", "hf-mirror.example:443"} <= settings.hosts
    assert settings.bucket is not None
    assert "planted" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DOWNLOAD_MODELS", "perhaps", "neither true nor false"),
        ("COMFY_REMOTE_MODEL_SIZE_LIMIT", "6 GB", "not a number of bytes"),
        ("HF_ENDPOINT", "http://mirror.example", "HF_ENDPOINT cannot be used"),
        ("R2_BUCKET", "models", "R2_ENDPOINT, R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY are not set"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ModelSettings.from_environ({name: value})


@pytest.mark.parametrize(
    ("environ", "bucket"),
    [
        ({"R2_ENDPOINT": "https://s3.example"}, "comfyui-models"),
        ({"R2_ENDPOINT": "https://s3.example/mine"}, "mine"),
        ({"R2_ENDPOINT": "https://s3.example", "R2_BUCKET": "named"}, "named"),
    ],
)
def test_a_bucket_for_models_has_a_name_by_default(environ: dict[str, str], bucket: str) -> None:
    keys = {"R2_ACCESS_KEY_ID": "id", "R2_SECRET_ACCESS_KEY": "secret"}
    found = ModelSettings.from_environ({**environ, **keys}).bucket
    assert found is not None
    assert found.bucket == bucket


def test_a_bucket_link_needs_a_bucket(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has none"):
        understand(ModelLine(1, "lora", "r2:a.safetensors"), settings_for(tmp_path))


@pytest.mark.parametrize(
    "link",
    [
        "r2:../private/a.safetensors",
        "r2:loras/../../private/a.safetensors",
        "r2:loras/%2e%2e/%2E%2E/private/a.safetensors",
        "https://s3.example.org/b/models/%2e%2e/private/a.safetensors",
        "https://b.s3.example.org/models/loras/..%2f../private/a.safetensors",
    ],
)
def test_a_bucket_link_stays_below_the_prefix(tmp_path: Path, link: str) -> None:
    """A server that has folders may follow ``..``, though the key is signed as it is written."""
    keys = {"R2_ACCESS_KEY_ID": "id", "R2_SECRET_ACCESS_KEY": "secret"}
    address = {"R2_ENDPOINT": "https://s3.example.org/b/models"}
    settings = ModelSettings.from_environ({**keys, **address})
    with pytest.raises(ModelUnavailable, match=r"leads out of|does not lead into"):
        understand(ModelLine(1, "lora", link), settings)
    good = understand(ModelLine(1, "lora", "r2:a..b.safetensors"), settings)
    assert good.identity == "r2:b/models/loras/a..b.safetensors"


TENSORS = {
    "loras": ["lora_unet_down_blocks_0_attentions.lora_up.weight"],
    "controlnet": ["control_model.input_hint_block.0.weight"],
    "checkpoints": [
        "model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.decoder.conv_in.weight",
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    ],
    "diffusion_models": ["double_blocks.0.img_attn.qkv.weight"],
    "text_encoders": ["text_model.embeddings.token_embedding.weight"],
    "clip_vision": ["vision_model.embeddings.class_embedding"],
    "vae": ["decoder.conv_in.weight", "encoder.conv_in.weight"],
    "upscale_models": ["conv_first.weight", "body.0.weight"],
    "embeddings": ["clip_g", "clip_l"],
}
OTHER_TENSORS = [
    ("loras", "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight"),
    ("loras", "transformer.single_transformer_blocks.0.attn.to_q.lora_B.default.weight"),
    ("loras", "lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_a"),
    ("controlnet", "controlnet_blocks.0.weight"),
    ("diffusion_models", "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"),
    ("diffusion_models", "blocks.0.self_attn.q.weight"),
    ("diffusion_models", "transformer_blocks.0.attn.to_q.weight"),
    ("text_encoders", "shared.weight"),
    ("text_encoders", "model.embed_tokens.weight"),
    ("vae", "first_stage_model.decoder.conv_in.weight"),
    (None, "weight"),
]


@pytest.mark.parametrize(
    ("folder", "names"), [*TENSORS.items(), *((folder, [name]) for folder, name in OTHER_TENSORS)]
)
async def test_a_line_without_a_kind_goes_by_what_is_in_the_file(
    site: ModelServer, tmp_path: Path, folder: str | None, names: list[str]
) -> None:
    model = safetensors(names=names)
    site.files["/any.safetensors"] = File(model)
    library = library_for(tmp_path, site)
    if folder is None:
        with pytest.raises(ModelUnavailable, match="neither its publisher nor its file says") as no:
            await ensure(library, f"{site.url}/any.safetensors?token=planted")
        assert f"lora {site.url}/any.safetensors" in str(no.value)
        assert "planted" not in str(no.value)
        return
    answer = await ensure(library, f"{site.url}/any.safetensors")
    assert answer.ensured == [f"{folder}/any.safetensors"]
    assert files_in(tmp_path) == {f"{folder}/any.safetensors": model}
    asked = len(site.asked)
    lines = parse_repo_list(f"{site.url}/any.safetensors")
    assert (await library.ensure_for_run(lines, lambda _: None)).ensured == answer.ensured
    assert len(site.asked) == asked  # it is known now
    pruned = await library.prune(lines, lambda _: None)
    assert pruned.pruned == []


@pytest.mark.parametrize(
    ("said", "folder"),
    [
        ({"type": "LORA"}, "loras"),
        ({"type": "LoCon"}, "loras"),
        ({"type": "TextualInversion"}, "embeddings"),
        ({"type": "Upscaler"}, "upscale_models"),
        ({"type": "VAE"}, "vae"),
        ({"type": "Checkpoint"}, "checkpoints"),
    ],
)
async def test_a_line_without_a_kind_goes_by_what_civitai_says(
    site: ModelServer, tmp_path: Path, said: dict[str, str], folder: str
) -> None:
    file = {"name": "a.safetensors", "type": "Model", "primary": True}
    version = {"id": 62833, "files": [file], "model": said}
    site.json["/api/v1/model-versions/62833"] = version
    site.json["/api/v1/models/58390"] = {**said, "modelVersions": [version]}
    site.files["/api/download/models/62833"] = File(MODEL)
    library = library_for(tmp_path, site, **endpoints(site))
    for link in ("models/58390?modelVersionId=62833", "models/58390"):
        answer = await ensure(library, f"https://civitai.com/{link}")
        assert answer.ensured == [f"{folder}/a.safetensors"]


async def test_a_checkpoint_on_civitai_that_is_a_diffusion_model_alone(
    site: ModelServer, tmp_path: Path
) -> None:
    version = {"id": 7, "files": [{"name": "a.safetensors"}], "model": {"type": "Checkpoint"}}
    site.json["/api/v1/model-versions/7"] = version
    site.files["/api/download/models/7"] = File(safetensors(names=TENSORS["diffusion_models"]))
    library = library_for(tmp_path, site, **endpoints(site))
    answer = await ensure(library, "https://civitai.com/api/download/models/7")
    assert answer.ensured == ["diffusion_models/a.safetensors"]


@pytest.mark.parametrize(
    ("path", "tags", "folder"),
    [
        ("split_files/text_encoders/a.safetensors", [], "text_encoders"),
        ("unet/a.safetensors", ["lora"], "diffusion_models"),
        ("a.safetensors", ["diffusers", "lora", "base_model:x"], "loras"),
        ("a.safetensors", ["text-to-image"], "upscale_models"),  # its file says it
    ],
)
async def test_a_line_without_a_kind_goes_by_what_hugging_face_says(
    site: ModelServer, tmp_path: Path, path: str, tags: list[str], folder: str
) -> None:
    site.json["/api/models/org/repo"] = {"tags": tags}
    model = safetensors(names=TENSORS["upscale_models"])
    site.files[f"/org/repo/resolve/main/{path}"] = File(model)
    library = library_for(tmp_path, site, **endpoints(site))
    answer = await ensure(library, f"hf:org/repo/{path}")
    assert answer.ensured == [f"{folder}/a.safetensors"]


async def test_a_line_without_a_kind_is_found_here_by_its_name_before_a_run(
    site: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "mine.safetensors").write_bytes(MODEL)
    lines = parse_repo_list(f"{site.url}/mine.safetensors")
    for changes in ({}, {"download": False}):
        library = library_for(tmp_path, site, **changes)
        answer = await library.ensure_for_run(lines, lambda _: None)
        assert answer.ensured == ["loras/mine.safetensors"]
    assert site.asked == []


async def test_a_header_without_an_end_is_not_read_for_ever(
    site: ModelServer, tmp_path: Path
) -> None:
    site.files["/a.safetensors"] = File(b"\xff" * 300_000, ranges=False)
    with pytest.raises(ModelUnavailable, match="neither its publisher nor its file says"):
        await ensure(library_for(tmp_path, site), f"{site.url}/a.safetensors")
