"""How good a model is on rows it has not seen: greedy answers, losses, metrics, the report.

A plain library: usable from a notebook or a test. Knows nothing of users, sockets or policy.
"""
