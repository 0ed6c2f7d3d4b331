"""Entities: virtual actors, each with one owner in the cluster and state that outlives it.

From a call to the node that owns the entity:

    router                 finds the owner: rendezvous hash over the members that host the type
    search                 where the call goes next, when it was sent on; sans-IO
    local                  how it is asked for, on this node
    peers                  how it is asked for, on another: by the process `$entities` there
    service                that process
    answers                how a turn was answered, here and on the wire

At the owner:

    host                   the entities that are here, and what comes to them from outside
    active                 one of them, and the work that it is given
    turns                  what an entity does next (activate, run, passivate, hand over); sans-IO
    attendant              does it
    workers                the tasks in which it is done
    sweeping               what time does to entities: idle or stuck ones
    reentrancy             a call that comes back to an entity whose turn made it
    ownership              the epoch: taken, shown with every write, given back
    schedule               timers and durable reminders
    agenda                 what is due when

What a turn runs:

    behaviour              the interface: a Python class, or a program behind the sidecar
    python                 entities written as Python classes
    state                  what of them is stored
    requests               calls to them from programs that speak HTTP and JSON

Where state and epochs live:

    store                  what a store promises
    keeper                 the node's store, opened when it is first needed
    stores                 the store that a URL names
    grouping               writes of many entities, in one transaction
    database               what one such group does in a database; no threads, no Trio
    sqlite                 one SQLite file, for the nodes of one machine
    postgres               PostgreSQL, for clusters of machines
    postgres_connection    one connection to it, and what its errors mean

An entity is a type and an id.  Nobody creates it: the first call activates it, on the member that
the hash of its key picks among those that host its type.  Placement may be wrong for a moment,
when members come and go, so ownership is not what keeps state whole: every activation takes a new
*epoch* from the store, every write is conditional on it, and a turn whose write is refused is not
acknowledged (E1).  A turn is acknowledged after its commit (E2), and one that may have run is not
run again by anybody but its caller (E3).

The alternative, a lock service or consensus among the nodes, was refused: it would have to agree
with the store in the end, and the store can be asked directly.

It sits below `node`, which composes it, and not above as the first design had it: `Node.entity`
and `Node.host` are methods, and a node must be able to call entities that it does not host.
"""
