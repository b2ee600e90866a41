"""Calling a workflow like a function: values in by key, values out by key.

```
run         one run elsewhere: start, events, cancel
target      … of a workflow on a target: TargetCall, call
service     … of a service by its address: ServiceCall, call_service
workflow    what is called: a prompt with Remote Input and Remote Output nodes
values      how Python values are sent, and what results become
arguments   what JSON and people's texts and files become
store       value files that were sent
rest        the protocol's client, which trusts no server
address     where a service may be, and its login
```
"""
