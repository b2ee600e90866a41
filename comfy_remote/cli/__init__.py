"""The command line: one thin file a command group, over the library.

`main` is the way in. Results go to standard output, everything else to standard error. Only
click is imported before a command runs, so that ``--help`` answers at once.
"""
