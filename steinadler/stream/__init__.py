"""Streams: channels of objects and streams of bytes, from a task here to a task anywhere.

    SendChannel, ReceiveChannel     objects, as Trio's memory channels
    ByteStream, StreamListener      bytes, as Trio's sockets
       |                  ^
    SendingEnd         Inlet        one direction each: queue, end, error
       |                  |
    Outlet ~~ credit, frames ~~> channel of the session with the other node

    streams          how streams come to be: channels given away and claimed, services connected to
    object_channel   `SendChannel`, `ReceiveChannel`
    byte_stream      `ByteStream`, `StreamListener`
    outlet           where a direction begins: the way to its inlet, here or on another node
    inlet            where it arrives: what waits to be taken, and how it ends
    closing          how an end is left: in order, or with an error that the other end hears of
    table            the directions that are open at one node, by peer and target
    service          what a node does for peers that open streams to it: the process `$streams`
    statistics       what a node can tell of its streams

A direction is a channel of the wire (`steinadler.wire.channels`), with its credit and its place in
the order of sending; closing that channel is the end of the stream, with an error or without.  So
back-pressure, fairness and resumption are those of messages, and need nothing of their own.  Both
directions of a byte stream have one number, which the node that opened it chose: that node can
take back an opening that it gave up without having heard how it went.

A protocol of its own for streams inside messages (Akka's StreamRefs do so, with demand signals)
was refused: it would count credit twice, and a stream's bytes would queue behind the messages of
its process.
"""

from steinadler.stream.byte_stream import ByteStream, StreamListener
from steinadler.stream.object_channel import ReceiveChannel, SendChannel
from steinadler.stream.statistics import StreamStatistics

__all__ = ["ByteStream", "ReceiveChannel", "SendChannel", "StreamListener", "StreamStatistics"]
