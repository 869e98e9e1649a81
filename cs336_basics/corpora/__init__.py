"""cs336_basics.corpora."""
