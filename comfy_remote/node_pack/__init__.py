"""Comfy Remote inside ComfyUI: the Remote switch, the remote lane, and the nodes.

Only `comfyui_host` and the modules below `nodes` import ComfyUI.
"""
