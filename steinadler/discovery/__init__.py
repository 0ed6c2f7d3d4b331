"""Discovery: where other nodes of this cluster may be found.

A `Source` proposes addresses and nothing more.  Who answers there is decided by certificates
alone (promise S3), so a source may be wrong, late, or lied to by anybody on the network, and
the worst that follows is a dial that comes to nothing.  That is why sources are plain and
numerous instead of one trusted directory, as Erlang's epmd is: any of them may fail, and a node
that has at least one that works finds its cluster.

    source            what a source is
    rounds            how a source proposes a list of addresses again and again

    mdns              `Mdns`: nodes on the same link announce themselves and hear each other
    records           what is announced, as names, TXT records and addresses
    instances         what was heard: whom to propose, ask about, or forget
    interfaces        the interfaces of this machine, as mDNS needs them

    seeds             `Seeds`: addresses that somebody wrote down
    seed_file         `SeedFile`: those in a file, which may change
    dns_names         `Dns`: names that somebody, or an orchestrator, keeps up to date
    dns_lookup        A, AAAA and SRV records, with dnspython
    runtime_folder    `RuntimeFolder`: nodes of the same user on the same machine, through files

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
