"""cs336_basics.tokenization."""
