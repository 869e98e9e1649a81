"""Test suites; reached by pytest only."""
