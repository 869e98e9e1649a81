"""The HTTP interfaces of the training service."""
