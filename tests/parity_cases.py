"""Prompts whose pixels must be those of a real ComfyUI, and the images they load."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
BLEND_MODES = ("normal", "multiply", "screen", "overlay", "soft_light", "difference")


def input_files() -> dict[str, bytes]:
    """File name to PNG bytes. The same on every machine."""
    noise = np.random.RandomState(7)  # its stream is frozen by NumPy's promise
    rows, columns = np.mgrid[0:61, 0:83]
    gradient = np.stack([rows * 4, columns * 3, (rows + columns) * 1.7], -1).astype(np.uint8)
    pictures = {
        "parity_noise.png": noise.randint(0, 256, (53, 37, 3)).astype(np.uint8),
        "parity_gradient.png": gradient,
        "parity_large.png": noise.randint(0, 256, (150, 201, 3)).astype(np.uint8),
        "parity_transparent.png": noise.randint(0, 256, (40, 44, 4)).astype(np.uint8),
    }
    files = {}
    for name, pixels in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files[name] = buffer.getvalue()
    return files


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of a prompt."""
    return {"class_type": class_type, "inputs": inputs}


def load(name: str = "noise") -> dict[str, Any]:
    """A node that loads one of the `input_files`."""
    return node("LoadImage", image=f"parity_{name}.png")


def saved(*nodes: dict[str, Any]) -> dict[str, Any]:
    """A prompt of the nodes ``1``, ``2``, … whose last one's first output is saved."""
    prompt = {str(number): entry for number, entry in enumerate(nodes, 1)}
    last = str(len(nodes))
    prompt["9"] = node("SaveImage", images=[last, 0], filename_prefix="parity")
    return prompt


def cases() -> dict[str, dict[str, Any]]:
    """Name to prompt."""
    found: dict[str, dict[str, Any]] = {}
    first = ["1", 0]

    for name in ("noise", "gradient", "transparent"):
        found[f"load {name}"] = saved(load(name))
    for channel in ("alpha", "red", "green", "blue"):
        found[f"load mask {channel}"] = saved(
            node("LoadImageMask", image="parity_transparent.png", channel=channel),
            node("MaskToImage", mask=first),
        )
    found["load mask of an opaque image"] = saved(load(), node("MaskToImage", mask=["1", 1]))

    sizes = {
        "up": (100, 140, "disabled"),
        "small up": (61, 59, "disabled"),
        "down": (64, 100, "disabled"),
        "tiny": (11, 7, "disabled"),
        "centre": (120, 90, "center"),
        "tall centre": (20, 130, "center"),
        "same": (201, 150, "center"),
        "width only": (130, 0, "disabled"),
        "height only": (0, 97, "disabled"),
        "double": (402, 300, "disabled"),
        "one row": (50, 1, "disabled"),
    }
    for method in METHODS:
        for label, (width, height, crop) in sizes.items():
            for source in ("noise", "gradient", "large"):
                found[f"scale {source} {method} {label}"] = saved(
                    load(source),
                    node(
                        "ImageScale",
                        image=first,
                        upscale_method=method,
                        width=width,
                        height=height,
                        crop=crop,
                    ),
                )
        for factor in (0.37, 0.5, 1.0, 1.73, 2.0, 3.14):
            found[f"scale by {method} {factor}"] = saved(
                load(), node("ImageScaleBy", image=first, upscale_method=method, scale_by=factor)
            )
        found[f"scale twice {method}"] = saved(
            load("gradient"),
            node("ImageScaleBy", image=first, upscale_method="bicubic", scale_by=1.9),
            node("ImageScaleBy", image=["2", 0], upscale_method=method, scale_by=0.7),
        )
        found[f"scale a crop {method}"] = saved(
            load("large"),
            node("ImageCrop", image=first, width=99, height=77, x=13, y=17),
            node("ImageScaleBy", image=["2", 0], upscale_method=method, scale_by=1.3),
        )
        found[f"scale a mask {method}"] = saved(
            node("LoadImageMask", image="parity_transparent.png", channel="alpha"),
            node("MaskToImage", mask=first),
            node("ImageScaleBy", image=["2", 0], upscale_method=method, scale_by=2.6),
        )
        found[f"scale one colour {method}"] = saved(
            node("EmptyImage", width=31, height=29, batch_size=2, color=0x12AB9F),
            node("ImageScaleBy", image=first, upscale_method=method, scale_by=3.3),
        )
    found["scale to nothing"] = saved(
        load(),
        node("ImageScale", image=first, upscale_method="area", width=0, height=0, crop="disabled"),
    )

    for color in (0, 0xFFFFFF, 0x123456, 0x7F80FE):
        found[f"empty {color:06x}"] = saved(
            node("EmptyImage", width=17, height=9, batch_size=2, color=color)
        )
    found["invert"] = saved(load(), node("ImageInvert", image=first))
    found["batch"] = saved(
        load(), load("gradient"), node("ImageBatch", image1=first, image2=["2", 0])
    )
    found["batch of large"] = saved(
        load("large"), load(), node("ImageBatch", image1=first, image2=["2", 0])
    )
    for label, (width, height, x, y) in {
        "inside": (10, 20, 3, 5),
        "over the edge": (512, 512, 30, 40),
        "outside": (5, 5, 1000, 1000),
    }.items():
        found[f"crop {label}"] = saved(
            load(), node("ImageCrop", image=first, width=width, height=height, x=x, y=y)
        )
    for mode in BLEND_MODES:
        for factor in (0.0, 0.33, 0.5, 1.0):
            found[f"blend {mode} {factor}"] = saved(
                load("noise"),
                load("large"),
                node(
                    "ImageBlend",
                    image1=first,
                    image2=["2", 0],
                    blend_factor=factor,
                    blend_mode=mode,
                ),
            )
        found[f"blend {mode} of equal size"] = saved(
            load("gradient"),
            node("ImageInvert", image=first),
            node("ImageBlend", image1=first, image2=["2", 0], blend_factor=0.71, blend_mode=mode),
        )

    paddings = {
        "around": (8, 16, 24, 32, 9),
        "left": (40, 0, 0, 0, 15),
        "bottom right": (0, 0, 8, 8, 18),
        "hard": (8, 8, 8, 8, 0),
        "too soft": (8, 8, 8, 8, 40),
        "nowhere": (0, 0, 0, 0, 5),
    }
    for label, (left, top, right, bottom, feathering) in paddings.items():
        pad = node(
            "ImagePadForOutpaint",
            image=first,
            left=left,
            top=top,
            right=right,
            bottom=bottom,
            feathering=feathering,
        )
        found[f"pad {label}"] = saved(load(), pad)
        found[f"pad {label}, the mask"] = saved(load(), pad, node("MaskToImage", mask=["2", 1]))

    for value in (0.0, 0.1, 0.5, 0.99, 1.0):
        found[f"solid mask {value}"] = saved(
            node("SolidMask", value=value, width=12, height=5),
            node("InvertMask", mask=first),
            node("MaskToImage", mask=["2", 0]),
        )
    for channel in ("red", "green", "blue"):
        found[f"image to mask {channel}"] = saved(
            load(),
            node("ImageToMask", image=first, channel=channel),
            node("MaskToImage", mask=["2", 0]),
        )
    return found
