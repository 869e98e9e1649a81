"""cs336_alignment."""
