"""The nodes.

```
extension             what ComfyUI loads: the page's side, then the list of nodes
remote_execute        RunPodRemoteExecute, the node that people see
modal_deployment      ComfyRemoteModalDeployment
expansion_nodes       two nodes that only its expansions use
comfyui_watcher       progress, texts, previews and interrupts of the node that runs
local_schemas         the node classes of this ComfyUI
pixels                IMAGE tensors: as a PNG would bring them, joined, written
```

The rest knows nothing of ComfyUI: `workflow_choice` (which workflow), `image_inputs` (which
Load Image gets which picture), `expansion` (the workflow as nodes of the running graph),
`remote_run` (the workflow on a target) and `modal_run` (a deployment).
"""
