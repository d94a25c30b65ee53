"""The QLoRA recipe and its parts: schedule, batches, fused layers, checkpoints.

A plain library: usable from a notebook or a test. Knows nothing of users, sockets or policy.
"""
