"""Authenticated byte streams between nodes, and the connections made of them.

`network` is the interface; `tcp` and `tls` are the real one.  On top, `link` carries a session,
`peer` decides which session that is, `handshake` agrees on it with the other end, `connections`
dials and accepts, and `delegate` is what all of them ask about membership.

Beside that, `unix_sockets` listens for programs of this machine.
"""
