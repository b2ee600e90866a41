"""Where models lie on a worker: a volume in either layout, the image, the engine's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError
from comfy_remote.worker.choice import choose_engine
from comfy_remote.worker.models.folders import ModelFolders


def folders(tmp_path: Path, *, chosen: bool = False, engine: bool = True) -> ModelFolders:
    return ModelFolders.of_worker(
        chosen=tmp_path / "chosen" if chosen else None,
        volume=tmp_path / "volume",
        engine=tmp_path / "engine/models" if engine else None,
    )


def test_the_volume_goes_before_the_engine_in_both_layouts(tmp_path: Path) -> None:
    engine = tmp_path / "engine/models"
    assert folders(tmp_path).roots == (engine,)
    (tmp_path / "volume").mkdir()
    assert folders(tmp_path).roots == (tmp_path / "volume/models", engine)
    (tmp_path / "volume/ComfyUI/models").mkdir(parents=True)
    assert folders(tmp_path).roots == (tmp_path / "volume/ComfyUI/models", engine)
    (tmp_path / "volume/models").mkdir()
    assert folders(tmp_path, chosen=True).roots == (
        tmp_path / "chosen",
        tmp_path / "volume/ComfyUI/models",
        tmp_path / "volume/models",
        engine,
    )


def test_without_any_folder_the_error_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no folder for models") as caught:
        _ = folders(tmp_path, engine=False).root
    assert "COMFY_REMOTE_MODELS_DIR" in caught.value.advice


def test_models_are_listed_from_all_folders_and_once(tmp_path: Path) -> None:
    for path in (
        "volume/models/loras/a.safetensors",
        "volume/models/loras/sub/b.safetensors",
        "volume/models/loras/.comfy-remote-1.part",
        "volume/models/.comfy-remote/files/x.json",
        "volume/models/configs/v1.yaml",
        "engine/models/loras/a.safetensors",
        "engine/models/clip/t5.safetensors",
        "engine/models/loras/put_loras_here",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    found = folders(tmp_path)
    assert [(folder, name) for folder, name, _ in found.models()] == [
        ("loras", "a.safetensors"),
        ("loras", "sub/b.safetensors"),
        ("clip", "t5.safetensors"),
    ]
    assert found.find("text_encoders", "t5.safetensors") is not None
    assert found.find("loras", "none.safetensors") is None


@pytest.mark.parametrize(
    ("arguments", "models"),
    [
        ("", "models"),
        ("--base-directory data", "data/models"),
        ("--base-directory=data --lowvram", "data/models"),
        ("--models-directory weights --base-directory data", "weights"),
    ],
)
def test_an_engines_own_folder_is_known(tmp_path: Path, arguments: str, models: str) -> None:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").write_text("")
    choice = choose_engine(str(tmp_path), {"COMFYUI_ARGS": arguments})
    assert choice.models == tmp_path.resolve() / models
