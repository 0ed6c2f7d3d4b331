"""The command line: thin commands on the public API.

What commands have in common:

    root              `steinadler` itself: its subcommands, and how what they raise is told
    running           how commands run, end and fail
    options           what several commands take, and how it is read
    certificates      of these, those for a certificate of another PKI
    opening           how those that run a node open it, and wait for whoever may have its name
    output            JSON for programs, text for people
    observing         an observer that joins, asks and leaves; `members`, `whereis`, `send`, `call`

Nodes:

    node              `steinadler node`: a node until it is told to leave
    sidecar           `steinadler sidecar`: a node with entities behind HTTP
    demo              `steinadler demo`: a cluster of several processes, shown at work
    demo_processes    what its nodes run
    demo_entity       its entity, called through two nodes and found again on a third

Services from machine to machine:

    forwarding        `expose` and `forward`: services of one machine, at ports of another
    places            the local ends: TCP ports and Unix sockets
    relaying          what is accepted at one end is dialled at the other
    pump              from one stream into another, both ways, until both have ended
    traffic           what is told while they carry

Looking at a cluster:

    services          `services`: which are offered, and by whom
    top               `top`: what every node does and holds, look after look
    top_view          how that looks
    doctor            `doctor`: `steinadler.diagnosis`, told to people and scripts

Who belongs to a cluster:

    cluster           `cluster init`, `cluster show`
    tokens            `cluster token`, `tokens`, `join`: how a machine gets in
    revoking          `cluster revoke`, `readmit`, `revoked`: who may take part no longer
    rotating          `cluster rotate-ca`: another authority
    administering     what commands that change a cluster share: waits until every member has it

What a command found out goes to stdout, everything else to stderr.  A mistake of the user, or
the weather of a distributed system, is one line on stderr and a non-zero exit; whatever else
goes wrong is a bug of ours, and keeps its traceback.
"""

from steinadler.cli.root import main

__all__ = ["main"]
