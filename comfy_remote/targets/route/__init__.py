"""A route: a target that sends each job to one of several others, and never to two.

```
kind     its address, and its members as they are opened
member   one of them: opened when it is needed, and what is known of it
book     what a route must remember: a protocol, which `jobs/` implements with the record
target   sends a job to a member, follows it there, and goes on to the next if it surely did not run
```
"""
