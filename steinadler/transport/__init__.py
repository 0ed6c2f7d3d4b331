"""Authenticated byte streams between nodes, and the connections made of them.

The rim, and the real network behind it:

    network           the interface: listen, dial, and streams whose far end has proved who it is
    tcp               the real network: TCP, with nothing on it that is not TLS
    tls               TLS 1.3 over whatever carries bytes
    carrier           what that is: a socket, or a stream through a third node

What happens to a connection that comes in, before it is trusted:

    welcoming         until it has proved who it is, or is refused
    handshake_gate    whose turn it is to shake hands; sans-IO
    client_hello      what the TLS client asks for: to connect as a member, or to join
    enrolling         machines that join: the port where they are let in, and the way to it

Connections to peers:

    connections       who is linked, dialled, proposed, and let go
    dialling          from an address to an attached link: directly, or through a third node
    handshake         Hellos, from an authenticated stream to an attached link
    peer              one peer name: its link, and when one session ends and the next begins
    link              one session with one life of a peer, and the connection that carries it now
    delegate          what connections ask and tell whoever decides about membership
    idle_polling      looks at busy connections for a moment before the thread goes to sleep

For programs of this machine:

    unix_sockets      listening at a path
"""
