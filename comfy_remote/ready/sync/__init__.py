"""A target brought to what a lock needs: models, by the best way that there is for each.

```
steps      what would be done for each model, and why: pure
ways       which ways there are to a target, as it and the settings say
here       the files of models on this machine
planning   all of that together: the plan
lacking    the plan for workflows of which only what is missing is looked at
carrying   the plan, carried out
lines      how a model is named to a worker that fetches it
brought    the record of what was brought, and of what is under way
leftovers  what stopped syncs have left in storage, given up
```
"""
