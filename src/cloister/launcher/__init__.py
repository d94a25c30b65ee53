"""Starts and watches sandboxes at the authority's request. Holds no stored key; decides nothing."""
