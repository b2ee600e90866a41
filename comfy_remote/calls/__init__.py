"""Calling a workflow like a function, on a target or as a service: values by key, both ways."""
