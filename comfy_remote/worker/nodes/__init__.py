"""Node packs on a worker: brought by jobs, tried, and used by its engine.

```
sets          the way in: sets are built, made current, and left again
building      a new set, step by step
fetching      a pack's code, from the Comfy Registry or by git
requirements  what packs require of Python, by uv
trying        ComfyUI started with a new set, before it is used
steps         how each of these runs programs and fails
folder        what is on the disk
in_use        which sets the engines of a volume run with
program       the ComfyUI that packs are for
using         an engine that starts with the current set
at_start      a ComfyUI that has our pack, and starts with the current set
settings      what the worker's owner allows
```

`install_custom_nodes` is a script that images run, too, and `at_start` one that ComfyUI runs: both
import the standard library only.
"""
