"""Many concepts in one run: they take turns in the slots of one program."""
