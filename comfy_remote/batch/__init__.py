"""Many runs of one workflow as one thing that lasts: batches and sweeps.

```
axes         what varies, as it is typed         plan         all rows, computed by number
names        what a name in it means             values       the values of one axis
rows_file    tables and files of values          frozen_rows  values that are not computed
order        what is dear to change              checking     every value against a target
run_names    folders and files of a run

draft        a batch before it is made           frozen       what it was when it was made
store        made, driven by one, removed        rows         the prompt and files of one row
driver       runs what is left of it             one_run      one run, never sent twice
capacity     how many at a time                  hours        when runs may begin
manifest     a line for each run                 events       what happens meanwhile
```
"""
