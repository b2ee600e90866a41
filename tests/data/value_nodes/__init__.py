# ComfyUI prescribes the names.
# ruff: noqa: N802
"""A node pack for tests: a node that makes a value of any type, and one that tells every bit of it.

Put into the ``custom_nodes`` of a real ComfyUI by `test_call_comfyui`.
"""

import hashlib
import struct
import tempfile
from fractions import Fraction
from pathlib import Path

import torch
from comfy_api.latest import InputImpl, Types

try:
    from comfy.nested_tensor import NestedTensor
except ImportError:
    NestedTensor = None


def noise(*shape, dtype=torch.float32, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def components():
    sound = {"waveform": noise(1, 2, 24000) * 2 - 1, "sample_rate": 48000}
    return Types.VideoComponents(
        images=noise(12, 32, 48, 3), audio=sound, frame_rate=Fraction(24000, 1001)
    )


def video_file():
    path = str(Path(tempfile.mkdtemp(), "film.mp4"))
    made = InputImpl.VideoFromComponents(components())
    made.save_to(path, format=Types.VideoContainer("mp4"), codec=Types.VideoCodec("h264"))
    return InputImpl.VideoFromFile(path)


class Controlled:
    """Stands for a ControlNet."""


MAKERS = {
    "IMAGE": lambda: noise(2, 9, 7, 3),
    "IMAGE, a view": lambda: noise(9, 7, 3, 4).permute(3, 0, 1, 2)[::2],
    "MASK": lambda: noise(2, 9, 7),
    "LATENT": lambda: {
        "samples": noise(2, 4, 8, 8),
        "noise_mask": noise(2, 1, 64, 64),
        "batch_index": [3, 5],
    },
    "LATENT, bf16": lambda: {"samples": noise(1, 16, 4, 4, dtype=torch.bfloat16)},
    "LATENT, fp8": lambda: {"samples": noise(1, 4, 4, 4, dtype=torch.float8_e4m3fn)},
    "CONDITIONING": lambda: [
        [
            noise(1, 77, 32),
            {
                "pooled_output": None,
                "area": (64, 64, 0, 0),
                "strength": 1.0,
                "start_percent": float("inf"),
                "hooks": {1: ("a", b"bytes")},
            },
        ],
        [noise(1, 12, 32, dtype=torch.float16), {"pooled_output": noise(1, 8), "guidance": 3.5}],
    ],
    "AUDIO": lambda: {"waveform": noise(1, 2, 4410), "sample_rate": 44100},
    "SIGMAS": lambda: torch.tensor([14.6, float("nan"), -0.0, 0.0]),
    "STRING": lambda: "Grüße\n\x00 ${HOME} 😀",
    "INT": lambda: -(2**70),
    "FLOAT": lambda: float("-inf"),
    "BOOLEAN": lambda: True,
    "VIDEO": lambda: InputImpl.VideoFromComponents(components()),
    "VIDEO, a file": video_file,
    "NESTED": lambda: {"samples": NestedTensor([noise(1, 4, 2, 2), noise(1, 8, 5)])},
    "CONTROLLED": lambda: [[noise(1, 2, 2), {"control": Controlled()}]],
}


def update(digest, value):
    """Feed every bit of a value, and the types of its parts."""
    digest.update(type(value).__name__.encode() + b"(")
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)} {value.device}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key, part in value.items():
            update(digest, key)
            update(digest, part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            update(digest, part)
    elif isinstance(value, float):
        digest.update(struct.pack("<d", value))
    elif isinstance(value, bytes):
        digest.update(value)
    elif isinstance(value, (str, int, Fraction, type(None))):
        digest.update(repr(value).encode())
    elif NestedTensor is not None and isinstance(value, NestedTensor):
        update(digest, value.tensors)
    elif isinstance(value, InputImpl.VideoFromFile):
        source = value.get_stream_source()
        digest.update(Path(source).read_bytes() if isinstance(source, str) else source.getvalue())
        update(digest, vars(value.get_components()))
    elif isinstance(value, InputImpl.VideoFromComponents):
        update(digest, vars(value.get_components()))
    else:
        raise TypeError(f"unexpected {type(value)}")
    digest.update(b")")


class TestMakeValue:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": (list(MAKERS),)}}

    RETURN_TYPES = ("*",)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, kind):
        return (MAKERS[kind](),)


class TestMakeList:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("IMAGE",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self):
        return ([noise(1, 3 + n, 4, 3, seed=n) for n in range(3)],)


class TestDigest:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, value):
        digest = hashlib.sha256()
        update(digest, value)
        return (digest.hexdigest(),)


class TestInjected:
    """Uses the nodes' helpers as a program in ComfyUI's own process does."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"node_id": ("STRING",), "text": ("STRING",)}}

    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "test"
    OUTPUT_NODE = True

    def run(self, node_id, text):
        import nodes

        if text:
            nodes.NODE_CLASS_MAPPINGS["ComfyRemoteInput"].inject_payload(node_id, {"x": text})
            return {"ui": {"text": ["injected"]}, "result": ("",)}
        made = nodes.NODE_CLASS_MAPPINGS["ComfyRemoteOutput"].pop_output(node_id)
        return {"ui": {"text": [repr(made)]}, "result": ("",)}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")


NODE_CLASS_MAPPINGS = {
    "TestMakeValue": TestMakeValue,
    "TestMakeList": TestMakeList,
    "TestDigest": TestDigest,
    "TestInjected": TestInjected,
}
