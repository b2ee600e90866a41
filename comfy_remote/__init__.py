"""Run ComfyUI workflows on a GPU elsewhere.

The public face of the library. Names are loaded when they are first used, so that the
command line can show its help without importing an HTTP stack.
"""

from __future__ import annotations

__version__ = "0.1.0"
