"""A ComfyUI that listens somewhere, spoken to over its own HTTP and WebSocket API."""
