"""The page for people without a shell: a client of runs' folders and of the command line."""
