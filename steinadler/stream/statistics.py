"""What a node can tell of its streams."""

from __future__ import annotations

from dataclasses import dataclass

from steinadler.identity import NodeId


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """One end of a stream that is open at a node.

    `peer` has the other end (this node itself, perhaps), `number` is the stream's and was chosen
    by the node that opened it, `opened_here` tells whether that is this one.  `service` is what a
    byte stream was connected to, None for a channel of objects.  `bytes_sent` were taken from the
    program, and `bytes_received` have arrived, of which `bytes_waiting` are still to be taken; of a
    channel the bytes are those of encoded objects.
    """

    peer: NodeId
    number: int
    opened_here: bool
    service: str | None
    bytes_sent: int
    bytes_received: int
    bytes_waiting: int
