"""Jobs: submitted, followed, fetched, recorded and resumed.

```
client            prepare, submit, resume, attach
submission        a workflow that is ready to be sent, and sending it
inputs            the files that it loads
sent_inputs       files that the target has already
job               one run: events, outputs, cancel
output            an output that has arrived
record/           every job, in one SQLite file
cache/            results that need not be computed again
route_journal     what routes have done with their jobs, in the record
status            the present state of recorded jobs
interruption      what becomes of jobs whose program is interrupted
forecast          whether a workflow would run, and what would run where
prices            what an hour costs on a target, as its provider says
billed            whether a target costs money, before more is imported
charges           what a job may cost: reserved before it is sent, and topped up while it runs
kept_ready        a worker kept ready, under its user's caps
bills             what providers have billed, beside what the ledger says
estimate          how long a run takes, and what it costs
run_cost          the same by what is known here, also for a route: nobody is asked
guessed_progress  progress of jobs whose targets send none
doctor            whether everything between here and the GPU works
```
"""
