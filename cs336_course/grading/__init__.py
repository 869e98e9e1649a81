"""Grading that student code cannot fool: a worker runs it, a judge in another process knows the answers."""
