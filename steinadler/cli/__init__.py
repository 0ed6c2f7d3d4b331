"""The command line: thin commands on the public API.

    running    common ground: how commands run, end and fail
    options    what several commands take, and how it is read
    output     JSON for programs, text for people
    node       `steinadler node`: a node until it is told to leave
    sidecar    `steinadler sidecar`: a node with entities behind HTTP
    forwarding `expose` and `forward`: `places` of this machine, `relaying` between them and the
               cluster by a `pump`, `traffic`, what is told of that
    observing  `members`, `whereis`, `send`, `call`: an observer that joins, asks and leaves
    services   `services`: the same, of what nodes offer
    top        `top`: the same observer, look after look; `top_view`, how that looks
    doctor     `steinadler doctor`: `steinadler.diagnosis`, told to people and scripts
    cluster    `cluster init`, `cluster show`
    demo       `steinadler demo`, with `demo_processes`, what its nodes run

What a command found out goes to stdout, everything else to stderr.  A mistake of the user, or
the weather of a distributed system, is one line on stderr and a non-zero exit; whatever else
goes wrong is a bug of ours, and keeps its traceback.
"""

from steinadler.cli.root import main

__all__ = ["main"]
