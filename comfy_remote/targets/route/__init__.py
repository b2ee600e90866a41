"""A route: a target that sends each job to one of several others, and never to two.

```
kind     its address, and its members as they are opened
member   one of them: opened when it is needed, and what it says for a while
members  all of them: what is known of each for a run, and what they have together
able     what one of them lacks for a request
union    what several targets have together
reasons  why members do not get a job: in words, JSON and errors
journal  what a route writes down before it acts: a protocol, which `jobs/` implements
target   sends a job to a member, follows it there, and goes on to the next if it surely did not run
```
"""
