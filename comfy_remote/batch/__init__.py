"""Many runs as one thing: what varies, the rows that follow from it, and how far they are.

```
plan         Variation and Plan: the rows of a batch, by number
axes         what varies, as it is typed         values       ranges, seeds, stored rows
names        what a name sets, and takes         order        what is dear changes least often
rows_file    texts, tables, JSON in files        frozen_rows  values that were written down
checking     every value against a target        run_names    folders and files of a run
```
"""
