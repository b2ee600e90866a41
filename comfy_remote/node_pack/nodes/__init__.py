"""The nodes.

```
extension             what ComfyUI loads: the page's side, then the list of nodes
remote_execute        RunPodRemoteExecute; expansion_nodes has two that only it makes
remote_api            ComfyRemoteNode
remote_input          ComfyRemoteInput; remote_output: ComfyRemoteOutput
remote_part           ComfyRemotePart, for nodes that are marked to run elsewhere
modal_deployment      ComfyRemoteModalDeployment
comfyui               what they ask of the ComfyUI that runs them
pixels                IMAGE tensors: as a PNG would bring them, joined, written
videos                films as VIDEO, and their frames
value_objects         objects of ComfyUI's as values that travel
```

The rest does not import ComfyUI: `workflow_choice` (which workflow), `image_inputs` (which
Load Image gets which picture), `expansion` (the workflow as nodes of the running graph), and
what runs on targets.
"""
