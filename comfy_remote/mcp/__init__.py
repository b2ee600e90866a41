"""Tools for agents (MCP): jobs that outlive the agent, within bounds that a person has set.

```
bounds     what the person who started the server allows: folders, targets, dollars
advice     what to do about an error, in an agent's words
shapes     what the tools answer (pydantic)
shown      a recorded job as a tool shows it, with text from elsewhere cleaned and marked
pictures   small copies of pictures
desk       does what the tools ask for: starts, follows and finds jobs
batches    many runs as one batch
lines      standard input, for a server that can be stopped
http_door  who may speak HTTP with the server
server     the tools themselves; the only module that imports the MCP SDK
```
"""
