"""Shapes of the models that the service trains."""
