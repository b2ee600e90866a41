"""A workflow on Modal: its project, its deployment, and what runs there.

```
here    workflow_file all of these, in order
        packing       which models and node packs a workflow names
        pinning       node packs as people name them, at a commit or version
        project       the folder: prompt.json, modal_config.json, workflow.py (template/)
        config        modal_config.json
        deployment    `modal deploy`, in a process of its own (__main__)
both    image         what is installed in the containers
there   worker        in the GPU container: our worker and its ComfyUI
        front         in the light container: RunPod's endpoint API over HTTP, and beside it
        endpoint      … whose jobs are calls of a Modal function
        calls, notes  … all that they use of Modal: spawn, poll, cancel; a Dict; a Volume
        outputs
```

Nothing but text and bytes crosses between containers.
"""
