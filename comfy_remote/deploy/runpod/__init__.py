"""A RunPod endpoint of the user's own: what is wanted, what is there, the plan, carried out.

``wanted.py`` has what flags, workflow and lock ask for; ``there.py`` finds what an account has of
it; ``plan.py`` compares the two, and asks nobody (its parts: ``planned_volume.py``,
``new_endpoint.py``, ``changed_endpoint.py``, ``costs.py``; a plan itself: ``steps.py``);
``carrying.py`` does what the plan says, step by step; ``record.py`` is what was made from
here; ``own_target.py`` puts its target into the owner's file, and takes it out.
"""
