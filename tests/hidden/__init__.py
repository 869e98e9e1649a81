"""Hidden suites: seeded generators of inputs and oracles, one module per assignment with a table PROBLEMS.

They are loaded by `cs336_course.grading.suite` under the private package name `cs336_hidden`, whose path also holds
`tests/` and `tests/fixtures/`, so the oracles of the public suite are siblings here. No handout contains this folder.
"""
