"""cs336_basics.runs."""
