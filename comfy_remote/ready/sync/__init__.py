"""Brings to a target what a lock needs: node packs, and models by the best way for each.

```
steps      what would be done for each model, and why; pure
packs      the same for node packs; pure
ways       which ways there are to a target, as it and the settings say
here       the files of models on this machine
stores     storage that models are sent to: a network volume, a bucket
planning   all of that together: the plan
lacking    the plan for open workflows: only what is missing is looked into
carrying   a plan carried out
lines      how a model is named to a worker that fetches it
parts      how a model's file is divided to be sent
brought    the record of what was brought, and of uploads under way
leftovers  what interrupted syncs left in storage, removed
```
"""
