"""Who may take part: the cluster's authority, this node's certificate, and how a peer is told.

A cluster *is* its certificate authority.  Whoever holds a certificate signed by it is a peer,
named and given a role by that certificate (`peer`); nobody else gets past the TLS handshake
(promise X2).  The pieces, from the disk upwards:

- `home` keeps clusters on disk and makes the default one on first use;
- `authority` signs certificates with a cluster's key;
- `credentials` holds one node's key and certificate and hands out TLS contexts;
- `peer` reads the holder's identity out of a certificate.

There is no plaintext mode, and no argument, setting or environment variable turns verification
off (promise X1).  A shared secret (Erlang's cookie) was refused: it names nobody, cannot be
taken from one node alone, and travels.
"""

from steinadler.security.authority import Authority
from steinadler.security.credentials import Credentials
from steinadler.security.home import Cluster, Home, open_home
from steinadler.security.peer import PeerIdentity, Role, identify

__all__ = [
    "Authority",
    "Cluster",
    "Credentials",
    "Home",
    "PeerIdentity",
    "Role",
    "identify",
    "open_home",
]
