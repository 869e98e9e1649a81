"""Runs and their results: one run-directory format and one report writer for every package.

Reading order: atomic.py, lock.py, config.py, provenance.py, log.py, directory.py, report.py, plots.py.
"""
