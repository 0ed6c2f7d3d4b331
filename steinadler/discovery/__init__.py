"""Discovery: where other nodes of this cluster may be found.

A `Source` proposes addresses and nothing more.  Who answers there is decided by certificates
alone (promise S3), so a source may be wrong, late, or lied to by anybody on the network, and
the worst that follows is a dial that comes to nothing.  That is why sources are plain and
numerous instead of one trusted directory, as Erlang's epmd is: any of them may fail, and a node
that has at least one that works finds its cluster.

- `Mdns`: nodes on the same link announce themselves and hear each other.
- `Seeds`: addresses that somebody wrote down; `SeedFile`: those in a file, which may change.
- `Dns`: names that somebody, or an orchestrator such as Kubernetes, keeps up to date.
- `RuntimeFolder`: nodes of the same user on the same machine, found at once through files.

A program may bring its own: see `Source`.
"""

from steinadler.discovery.dns_names import Dns
from steinadler.discovery.mdns import Mdns
from steinadler.discovery.runtime_folder import RuntimeEntry, RuntimeFolder
from steinadler.discovery.seed_file import SeedFile
from steinadler.discovery.seeds import Seeds
from steinadler.discovery.source import Advertisement, Candidate, Found, Source

__all__ = [
    "Advertisement",
    "Candidate",
    "Dns",
    "Found",
    "Mdns",
    "RuntimeEntry",
    "RuntimeFolder",
    "SeedFile",
    "Seeds",
    "Source",
]
