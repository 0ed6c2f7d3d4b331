"""Authenticated byte streams between nodes, and the connections made of them.

`network` is the interface; `tcp` and `tls` are the real one.
"""
