"""Names of processes.  A name belongs to one living process of its node, and to one only (N1)."""

from steinadler.registry.names import LocalNames

__all__ = ["LocalNames"]
