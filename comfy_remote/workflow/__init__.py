"""Workflow documents: everything that can be known without running them. No network here.

```
load           a workflow from any file         metadata       the texts in a picture, a film, …
json_document  JSON text, or what it is         prompt         the API format; inputs set in a copy
graph          what runs, and in what order     schema         what ComfyUI says of its nodes
live_inputs    inputs that come and go          output_nodes   what is known of Save nodes
interface      Remote Input and Remote Output   spelling       paths as the target spells them
models         which models a prompt names      packs          which node packs it needs
repo_list      the models that a job brings     text_to_image  the workflow if none is given
fingerprint    what a prompt means, as a hash   workload       how much work it is
summary        what `show` says of a workflow

change/   what a user sets before it runs       check/    whether it can run on a target
convert/  UI format to API format               cut/      a part of it runs elsewhere
files/    the files that it loads
```
"""
