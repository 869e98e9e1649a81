"""Text classifiers without dependencies, and how classifiers are measured."""
