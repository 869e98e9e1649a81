"""cs336_systems.parallel."""
