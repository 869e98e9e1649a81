"""cs336_data."""
