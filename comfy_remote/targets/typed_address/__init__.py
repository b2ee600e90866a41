"""An http(s) address: what is behind it, a ComfyUI or a Comfy API, is found out and remembered."""
