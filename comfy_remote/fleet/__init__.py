"""Workers on a Ray cluster: Ray places workers, the gateway places jobs.

No job, picture or result crosses Ray: what it carries is the settings of workers, without secrets,
and what they say of themselves.

```
settings    fleet.yaml
sizing      how many workers there should be, and which end: pure
view        what the gateway says of its queue and its workers, and is told
notes       what the head remembers

cluster     Ray: the only module that imports it
head        the actor that steers: once a second it looks, decides and does
seen        its workers, as they say themselves and as the gateway sees them
actors      that and the next one, as Ray makes them
worker      the actor of a GPU: an engine and its worker, as `comfy-remote worker` has them
slot        the name and the folders that such a worker has on its machine
membership  ends a worker whose machine is no longer in the cluster
```
"""
