"""``modal_config.json``: what a person may want to change of a deployment."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ...errors import ConfigurationError, WorkflowInvalid
from ...json_text import problems_in
from ...text_file import SAVE_AS_UTF8, NotText, text_of
from ...wire.modal import Hardware
from ...wire.repo_list import parse_repo_list
from ...worker.nodes.install_custom_nodes import parse_list

__all__ = ["CONFIG_FILE", "ModalConfig", "package_list"]

CONFIG_FILE = "modal_config.json"

# Modal's rule for names, and what can stand in an endpoint's address as it is. Its names have 64
# characters at most, and the longest made of this one is APP-outputs.
_APP = r"[A-Za-z0-9][A-Za-z0-9_-]{0,55}"
# modal.com/docs/guide/gpu. "B200+" is that one or a newer, "H100!" no newer one.
_GPUS = (
    *("T4", "L4", "A10", "A10G", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000"),
    *("H100", "H100!", "H200", "B200", "B200+"),
)
_RELEASE = r"\d+\.\d+\.\d+"
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TORCH = frozenset({"torch", "torchvision", "torchaudio"})
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_Region = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]

_TRUSTED_LISTS = (
    "secrets",
    "custom_nodes",
    "extra_pip_packages",
    "extra_system_packages",
    "models",
)
_TRUSTED_VALUES = ("comfyui_arguments", "models_volume", "min_containers")


class ModalConfig(BaseModel):
    """One deployment. All times are seconds.

    Attributes:
        app_name: Of the app; ``modal:APP`` is the target.
        gpu_type: As Modal calls it: ``H100``, ``L40S``, ``A10``, ``T4``, ``H100:2``; several, with
            commas between or as a list: the first that is free; ``None`` for none (also as text).
        cpu: CPU cores, at least; Modal's own least when ``None``.
        memory: MiB of main memory, at least; likewise.
        region: Where it may run (``us-east``, ``eu``), at Modal's surcharge; anywhere if ``None``.
        comfyui_version: A release of ComfyUI, without the ``v``.
        comfyui_arguments: More arguments for it (``--lowvram``).
        custom_nodes: ``NAME@VERSION`` of the Comfy Registry, or ``https://HOST/OWNER/NAME@COMMIT``
            with all 40 digits of the commit: lines of `worker.nodes.install_custom_nodes`.
        models: Lines of a repo_list (``[KIND] URL [name=FILE] [sha256=HEX]``), to be fetched into
            the volume.
        models_volume: The Volume that has the models; several apps may share one.
        download_models: Whether a job fetches models of its own list that are missing.
        extra_pip_packages: For ComfyUI's Python.
        extra_system_packages: Debian packages.
        secrets: Names of Modal Secrets, for ``HF_TOKEN``, ``CIVITAI_TOKEN``, ``R2_…`` and
            ``BUCKET_…``. Never a secret itself.
        timeout: How long one job may take.
        scaledown_window: How long a GPU waits for the next job, at its price.
        min_containers: GPUs that run all the time, at their price.
        max_containers: GPUs that run at the most.
        snapshot: ``none``; ``memory``: containers start from a snapshot of the worker's Python;
            ``gpu``: of ComfyUI too, its GPU memory included (experimental at Modal).
        build_nonce: Another one builds the image again.
        generated: SHA-256 of the files that Comfy Remote wrote, to know them from edited ones.
    """

    model_config = ConfigDict(extra="forbid")

    app_name: str = "comfy-remote"
    gpu_type: str | list[str] | None = "H100"
    cpu: Annotated[float, Field(gt=0, le=128)] | None = None
    memory: Annotated[int, Field(ge=128, le=2 * 1024**2)] | None = None
    region: _Region | list[_Region] | None = None
    comfyui_version: str = "0.33.0"
    comfyui_arguments: str = ""
    custom_nodes: list[str] = []
    models: list[str] = []
    models_volume: Annotated[str, Field(pattern=_NAME)] = "comfyui-models"
    download_models: bool = True
    extra_pip_packages: list[str] = []
    extra_system_packages: list[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.:=~-]*$")]] = []
    secrets: list[Annotated[str, Field(pattern=_NAME)]] = []
    timeout: Annotated[int, Field(ge=60, le=86400)] = 3600
    scaledown_window: Annotated[int, Field(ge=2, le=3600)] = 60
    min_containers: Annotated[int, Field(ge=0)] = 0
    max_containers: Annotated[int, Field(ge=1)] = 1
    snapshot: Literal["none", "memory", "gpu"] = "none"
    build_nonce: str | None = None
    generated: dict[str, str] = {}

    @field_validator("app_name")
    @classmethod
    def _name_of_app(cls, name: str) -> str:
        if not re.fullmatch(_APP, name):
            raise ValueError(
                f"{name!r} is not 1 to 56 letters, digits, '-' and '_' that begin with a letter or "
                "digit"
            )
        return name

    @field_validator("gpu_type")
    @classmethod
    def _gpu(cls, gpu: str | list[str] | None) -> str | list[str] | None:
        given = package_list(gpu) if isinstance(gpu, str) else gpu or []
        if not given or [one.lower() for one in given] == ["none"]:
            return None
        for one in given:
            name, _, count = one.partition(":")
            if name.upper() not in _GPUS or (count and count not in map(str, range(1, 9))):
                raise ValueError(
                    f"{one!r} is not one of Modal's GPUs: {', '.join(_GPUS)}, none; with :2 to :8 "
                    "for several of them (a newer one can be named in workflow.py)"
                )
        return given[0] if len(given) == 1 else given

    @field_validator("comfyui_version")
    @classmethod
    def _release(cls, version: str) -> str:
        if not re.fullmatch(_RELEASE, version := version.removeprefix("v")):
            raise ValueError(f"{version!r} is not a release of ComfyUI, such as 0.33.0")
        return version

    @field_validator("custom_nodes")
    @classmethod
    def _pinned(cls, lines: list[str]) -> list[str]:
        parse_list("\n".join(lines))  # its error is a ValueError
        return lines

    @field_validator("models")
    @classmethod
    def _readable(cls, lines: list[str]) -> list[str]:
        try:
            parse_repo_list(lines)
        except WorkflowInvalid as error:
            raise ValueError(error.message) from None
        return lines

    @field_validator("extra_pip_packages")
    @classmethod
    def _no_options(cls, packages: list[str]) -> list[str]:
        for package in packages:
            if not package or package.startswith("-") or any(c in package for c in "\r\n\0"):
                raise ValueError(f"{package!r} is not a package")
            name = _PACKAGE.match(package)
            if name is not None and name[0].lower() in _TORCH:
                raise ValueError(
                    f"{package!r} cannot be installed beside the image's PyTorch, which belongs to "
                    "ComfyUI's release; another one can be installed in workflow.py"
                )
        return packages

    @property
    def hardware(self) -> Hardware:
        """What a container has, for whoever asks what it costs."""
        gpu, region = self.gpu_type, self.region
        return Hardware(
            gpu=[] if gpu is None else [gpu] if isinstance(gpu, str) else gpu,
            cpu=self.cpu,
            memory=self.memory,
            region=[] if region is None else [region] if isinstance(region, str) else region,
            always=self.min_containers,
        )

    @classmethod
    def read(cls, path: Path) -> ModalConfig:
        """Read a file.

        Raises:
            ConfigurationError: It cannot be read, or has unknown keys.
        """
        try:
            return cls.model_validate_json(text_of(path.read_bytes()))
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error}.") from error
        except NotText as error:
            raise ConfigurationError(
                f"{path} cannot be read: {error}.", advice=SAVE_AS_UTF8
            ) from error
        except ValidationError as error:
            raise ConfigurationError(
                f"{path}: {problems_in(error, 'the file')}.",
                advice=f"Known keys: {', '.join(cls.model_fields)}.",
            ) from None

    @classmethod
    def checked(cls, values: dict[str, object]) -> ModalConfig:
        """Make one of values that a person gave.

        Raises:
            ConfigurationError: One of them cannot be used.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigurationError(
                f"This cannot be deployed: {problems_in(error, 'the settings')}.",
                advice="docs/modal.md says what each setting may be.",
            ) from None

    def named(self, edited: str | None = None) -> list[str]:
        """What the project names that its owner has to trust, a line each.

        Code, packages, secrets, models, and GPUs that are paid for all day: its folder may have
        come with somebody's workflow. To deploy it runs its workflow.py here, and in the containers
        whatever it names, with the Modal Secrets that it names.

        Args:
            edited: The text of its workflow.py, if that is not ours.
        """
        values, usual = self.model_dump(), ModalConfig().model_dump()
        lines = [f"{field}: {json.dumps(one)}" for field in _TRUSTED_LISTS for one in values[field]]
        lines += [
            f"{field} = {json.dumps(values[field])}"
            for field in _TRUSTED_VALUES
            if values[field] != usual[field]
        ]
        if edited is not None:
            digest = hashlib.sha256(edited.encode()).hexdigest()
            lines.append(f"workflow.py, which runs on this machine (edited, {digest[:16]})")
        return lines

    def text(self) -> str:
        """The file's content."""
        return self.model_dump_json(indent=2, exclude_none=False) + "\n"


def package_list(text: str | None) -> list[str]:
    """Names that are separated by line breaks or commas.

    >>> package_list("ffmpeg, git\\nlibgl1")
    ['ffmpeg', 'git', 'libgl1']
    """
    parts = re.split(r"[\r\n,]", text or "")
    return [part.strip() for part in parts if part.strip()]
