"""The half of the grader that shares a process with student code. It holds inputs, never an expected value."""
