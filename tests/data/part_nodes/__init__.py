# ComfyUI prescribes the names.
# ruff: noqa: N802
"""A node pack for tests: a model that cannot travel, and slow nodes that use it step by step.

Put into the ``custom_nodes`` of a real ComfyUI by `test_offload_comfyui`.
"""

import time

import torch
from comfy.utils import ProgressBar
from comfy_execution.graph import ExecutionBlocker
from PIL import Image


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Model:
    """Weights, and a function, which no file holds."""

    def __init__(self, seed):
        self.weights = noise(4, 4, seed=seed) / 2
        self.activation = lambda x: torch.tanh(x)

    def step(self, samples, conditioning, at):
        mixed = torch.einsum("ij,bjhw->bihw", self.weights, samples)
        (embedding, options) = conditioning[0]
        return self.activation(mixed + embedding.mean() + options["pooled_output"].mean() / at)


class TestModelLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, seed):
        return (Model(seed),)


class TestEncode:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, text):
        seed = sum(text.encode())
        return ([[noise(1, 7, 16, seed=seed), {"pooled_output": noise(1, 16, seed=seed + 1)}]],)


class TestSampler:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "positive": ("CONDITIONING",),
                "latent_image": ("LATENT",),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "steps": ("INT", {"default": 8}),
                "seconds": ("FLOAT", {"default": 0.5}),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, model, positive, latent_image, seed, steps, seconds):
        samples = latent_image["samples"] + noise(*latent_image["samples"].shape, seed=seed)
        bar = ProgressBar(steps)
        for step in range(1, steps + 1):
            samples = model.step(samples, positive, step)
            time.sleep(seconds / steps)
            preview = Image.new("RGB", (16, 16), (step * 20 % 256, 0, 0))
            bar.update_absolute(step, steps, ("JPEG", preview, None))
        return ({**latent_image, "samples": samples},)


class TestDecode:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "samples": ("LATENT",)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, model, samples):
        decoded = model.step(
            samples["samples"], [[torch.zeros(1), {"pooled_output": torch.ones(1)}]], 1
        )
        picture = torch.nn.functional.interpolate(decoded[:, :3], scale_factor=8, mode="bilinear")
        return (picture.movedim(1, -1) / 2 + 0.5,)


class TestFail:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, image):
        raise RuntimeError("out of luck")


class TestGate:
    """Two ways: one gets the picture, the other is blocked."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "first": ("BOOLEAN", {"default": True})}}

    RETURN_TYPES = ("IMAGE", "IMAGE")
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, image, first):
        blocked = ExecutionBlocker(None)
        return (image, blocked) if first else (blocked, image)


NODE_CLASS_MAPPINGS = {
    "TestModelLoader": TestModelLoader,
    "TestEncode": TestEncode,
    "TestSampler": TestSampler,
    "TestDecode": TestDecode,
    "TestFail": TestFail,
    "TestGate": TestGate,
}
