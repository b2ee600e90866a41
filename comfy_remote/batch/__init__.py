"""Many runs of one workflow as one thing that lasts: batches and sweeps.

```
plan         Variation and Plan: the rows of a batch, by number
axes         what varies, as it is typed         values       ranges, seeds, stored rows
names        what a name sets, and takes         order        what is dear changes least often
rows_file    texts, tables, JSON in files        frozen_rows  values that were written down
checking     every value against a target        run_names    folders and files of a run

draft        a batch before it is made           frozen       what it was when it was made
store        made, driven by one, removed        rows         the prompt and the files of one row
driver       runs what is left of it             one_run      one run, never sent twice
capacity     how many at a time                  hours        when runs may begin
manifest     a line for each run                 events       what happens meanwhile

sheet/       all of a batch on one page, and as a picture
```
"""
