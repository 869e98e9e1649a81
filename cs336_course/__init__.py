"""cs336_course."""
