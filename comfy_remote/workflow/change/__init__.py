"""What a user changes in a workflow before it runs: texts, seeds, sizes, any input, file names."""
