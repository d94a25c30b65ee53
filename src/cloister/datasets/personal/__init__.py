"""Personal data in rows: found by type, counted, made unreadable or exchanged for what is made up.

It is detection, and no guarantee. Knows text and rows; it opens no file and asks no network.
"""
