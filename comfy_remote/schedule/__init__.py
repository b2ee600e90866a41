"""Where a run goes, what it may cost, and whether it has to run at all: decisions only.

Pure: no SQL, no network, no clock of its own. What is known comes in as values, and the decision
goes out with its reasons.
"""
