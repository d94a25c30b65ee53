"""The console: one terminal screen over the authority's socket. It holds no state worth losing and no secret."""
