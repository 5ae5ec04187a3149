"""Leaks that no test exercises: each test is run again, with faults struck where it takes connections.

Nothing of this is imported without ``--poolguard-faults``.
"""
