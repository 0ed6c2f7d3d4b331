"""Entities: virtual actors, each with one owner in the cluster and state that outlives it.

    router      a call finds the owner: rendezvous hash over the members that host the type
                (`search`, sans-IO: where it goes next; `peers` and `local`: how it is asked there)
    host        the entities that are here, and what comes to them from outside
    turns       sans-IO: what an entity does next (activate, run, passivate, hand over)
    attendant   does it, in `workers`; `sweeping`: what time does to entities
    ownership   the epoch: taken, shown with every write, given back
    behaviour   what runs a turn: a Python class, or a program behind the sidecar
    python      entities written as Python classes; `state`, what of them is stored
    schedule    timers and durable reminders
    store       where state and epochs live; `sqlite`, `postgres`, and `grouping`, which commits
                for many entities in one transaction

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
