"""cs336_scaling."""
