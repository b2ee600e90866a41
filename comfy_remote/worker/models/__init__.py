"""Models on a worker: fetched from where they are published, listed, pruned.

`library.ModelLibrary` is the way in. `sources` knows what the links of a ``repo_list`` mean (with
`huggingface` and `civitai`), `plan` which models are missing, `http` asks servers, `download`
brings a file here whole, `downloads` several at a time. `manifest` has what we fetched and which
list asked for it, `presence` who else is at work on the same volume, and `prune` removes what is
ours.
"""
