"""The environment of an engine, whose custom nodes are other people's code: an allow-list.

What ComfyUI, Python and GPUs need is passed on; keys are not, whatever they are called. What else
a node needs, the owner of the machine names in ``COMFYUI_ENV``.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..secrets import SECRETS, looks_secret

__all__ = ["engine_environment"]

_PASSED_BY_NAME = "COMFYUI_ENV"

# Nodes that fetch gated models read the token themselves.
_HUGGING_FACE_TOKENS = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}

_SYSTEM = """
DISPLAY HOME HOSTNAME LANG LANGUAGE LD_LIBRARY_PATH LD_PRELOAD LOGNAME PATH PWD SHELL TEMP TERM TMP
TMPDIR TZ USER VIRTUAL_ENV WAYLAND_DISPLAY
"""
_WINDOWS = """
ALLUSERSPROFILE APPDATA COMMONPROGRAMFILES COMMONPROGRAMFILES(X86) COMMONPROGRAMW6432 COMPUTERNAME
COMSPEC HOMEDRIVE HOMEPATH LOCALAPPDATA NUMBER_OF_PROCESSORS OS PATHEXT PROGRAMDATA PROGRAMFILES
PROGRAMFILES(X86) PROGRAMW6432 PUBLIC SYSTEMDRIVE SYSTEMROOT USERDOMAIN USERNAME USERPROFILE WINDIR
"""
_NETWORK = """
ALL_PROXY CURL_CA_BUNDLE FTP_PROXY HTTP_PROXY HTTPS_PROXY NO_PROXY REQUESTS_CA_BUNDLE SSL_CERT_DIR
SSL_CERT_FILE
"""
_COMPILERS = "CC CXX CFLAGS CXXFLAGS LDFLAGS CPATH LIBRARY_PATH MAX_JOBS"
_SETTINGS = "TOKENIZERS_PARALLELISM TQDM_DISABLE FORCE_COLOR NO_COLOR"
_NAMES = {
    *_HUGGING_FACE_TOKENS,
    *" ".join((_SYSTEM, _WINDOWS, _NETWORK, _COMPILERS, _SETTINGS)).split(),
}

# Prefixes of settings: of the system, of GPUs, of torch and what is built on it, of ComfyUI.
_FAMILIES = (
    *("LC_", "XDG_", "DYLD_", "PYTHON", "CONDA_", "UV_", "PROCESSOR_"),
    *("CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_", "NVTX_", "NCCL_"),
    *("AMD_", "GPU_", "HIP_", "HSA_", "MIOPEN_", "ROCM_", "ROCR_", "ROCBLAS_"),
    *("IPEX_", "LEVEL_ZERO_", "ONEAPI_", "SYCL_", "UR_", "ZE_", "ZES_"),
    *("ASCEND_", "CNCL_", "MLU_", "DIRECTML_"),
    *("PYTORCH_", "TORCH_", "TORCHINDUCTOR_", "TRITON_", "XFORMERS_", "FLASH_ATTENTION_", "XLA_"),
    *("BLIS_", "GOMP_", "GOTO_", "KMP_", "MKL_", "NUMBA_", "NUMEXPR_", "OMP_", "OPENBLAS_"),
    *("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DIFFUSERS_", "OPENCV_", "FFMPEG_", "IMAGEIO_"),
    *("MALLOC_", "TCMALLOC_", "MIMALLOC_", "JEMALLOC_"),
    *("COMFYUI_", "COMFY_REMOTE_"),
)


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What an engine inherits.

    A variable of a family (``CUDA_…``) is nevertheless left out where it is named like a secret
    (``NVIDIA_API_KEY``), or holds the value of one that this process has read.

    Args:
        environ: Ours. ``COMFYUI_ENV`` in it names further variables, with commas between.
    """
    named = {name.upper() for name in environ.get(_PASSED_BY_NAME, "").replace(",", " ").split()}
    named |= _HUGGING_FACE_TOKENS
    return {
        name: value
        for name, value in environ.items()
        if name.upper() in named or _is_setting(name.upper(), value)
    }


def _is_setting(name: str, value: str) -> bool:
    if name in _NAMES:
        return True
    harmless = name.startswith(_FAMILIES) and not looks_secret(name)
    return harmless and SECRETS.redact(value) == value
