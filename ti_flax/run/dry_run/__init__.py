"""`dry_run`: shows what a run would do, and finds what it would find wrong before it compiles."""
