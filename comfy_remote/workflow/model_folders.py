"""Which inputs of ComfyUI's own nodes name a model, and in which folder it is.

Source of facts: ``nodes.py``, ``comfy_extras/`` and ``folder_paths.py`` of ComfyUI 0.3.64 to
0.33.0. ``configs`` (files that come with ComfyUI) and ``diffusers`` (folders) are left out.
"""

from __future__ import annotations

__all__ = [
    "FOLDERS",
    "FOLDER_BY_CLASS",
    "FOLDER_BY_INPUT",
    "MODEL_SUFFIXES",
    "VIDEO_TINY_AUTOENCODERS",
]

FOLDER_BY_INPUT = {
    "audio_encoder_name": "audio_encoders",
    "bg_removal_name": "background_removal",
    "ckpt_name": "checkpoints",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "clip_name3": "text_encoders",
    "clip_name4": "text_encoders",
    "control_net_name": "controlnet",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetworks",
    "lora_name": "loras",
    "photomaker_model_name": "photomaker",
    "style_model_name": "style_models",
    "unet_name": "diffusion_models",
    "vae_name": "vae",
}
"""Names that mean the same in every class of ComfyUI, and in the packs that follow it."""

FOLDER_BY_CLASS = {
    ("CLIPLoader", "clip_name"): "text_encoders",
    ("CLIPVisionLoader", "clip_name"): "clip_vision",
    ("FrameInterpolationModelLoader", "model_name"): "frame_interpolation",
    ("LTXAVTextEncoderLoader", "text_encoder"): "text_encoders",
    ("LatentUpscaleModelLoader", "model_name"): "latent_upscale_models",
    ("LoadDA3Model", "model_name"): "geometry_estimation",
    ("LoadMediaPipeFaceLandmarker", "model_name"): "detection",
    ("LoadMoGeModel", "model_name"): "geometry_estimation",
    ("ModelPatchLoader", "name"): "model_patches",
    ("OpticalFlowLoader", "model_name"): "optical_flow",
    ("TrainLoraNode", "existing_lora"): "loras",
    ("UpscaleModelLoader", "model_name"): "upscale_models",
}
"""Names that mean another folder in each class."""

FOLDERS = frozenset(
    {*FOLDER_BY_INPUT.values(), *FOLDER_BY_CLASS.values(), "embeddings", "vae_approx"}
)
"""All of them: folders of ComfyUI's ``models/`` that hold what a workflow names."""

MODEL_SUFFIXES = frozenset(
    {".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".gguf", ".onnx", ".pkl"}
)
"""How the files of models end."""

VIDEO_TINY_AUTOENCODERS = frozenset(
    {"taehv", "lighttaew2_2", "lighttaew2_1", "lighttaehy1_5", "taeltx_2", "taeh3"}
)
"""What ``VAELoader`` takes from ``vae_approx``, by the name without its ending."""
