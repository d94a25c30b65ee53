"""The authority: the one process that opens the vault, keeps state and ledger, and decides what starts.

It never imports torch, opens no path that a caller names, and reads no row.
"""
