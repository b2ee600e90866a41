"""Models on a worker: fetched from where they are published, kept, listed, pruned.

`library.ModelLibrary` is the way in. `sources` knows what the links of a ``repo_list`` mean,
`fetch` follows them, `download` brings a file here whole, `manifest` remembers what we fetched,
`presence` knows who else is at work on the same volume, `prune` removes what is ours.
"""
