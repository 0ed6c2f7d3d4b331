"""Who may take part: the cluster's authority, this node's certificate, and how a peer is told.

A cluster *is* its certificate authority.  Whoever holds a certificate signed by it is a peer,
named and given a role by that certificate (`peer`); nobody else gets past the TLS handshake
(promise X2).  The pieces, from the disk upwards:

- `home` keeps clusters on disk and makes the default one on first use; `cluster_folder` is what it
  keeps of one;
- `authority` signs certificates with a cluster's key, and `signing_request` says for whom else;
- `credentials` are what a node shows and whom it trusts: certified by the authority at hand, or
  `from_files` that another PKI, or a join, has put there;
- `contexts` makes TLS contexts of them;
- `token` and `token_store` are what lets a machine in without the key, `enrolment` the protocol by
  which it asks, `joiner` and `registrar` the two sides of it;
- `pattern` and `peer` read the holder's identity out of a certificate;
- `policy` is what its role lets the holder do, `policy_file` reads that from a file, and `audit`
  keeps what is told of refusals within bounds.

There is no plaintext mode, and no argument, setting or environment variable turns verification
off (promise X1).  A shared secret (Erlang's cookie) was refused: it names nobody, cannot be
taken from one node alone, and travels.
"""

from steinadler.security.authority import Authority
from steinadler.security.cluster_folder import Cluster, ClusterFolder
from steinadler.security.credentials import Credentials, IssuedCredentials
from steinadler.security.from_files import FileCredentials
from steinadler.security.home import Home, open_home
from steinadler.security.home_credentials import HomeCredentials, JoinedCredentials
from steinadler.security.joiner import Admission, Joiner
from steinadler.security.pattern import SpiffePattern
from steinadler.security.peer import PeerIdentity, cluster_fingerprint
from steinadler.security.policy import Action, Grants, Policy
from steinadler.security.policy_file import parse_policy, read_policy
from steinadler.security.token import JoinToken, parse_token
from steinadler.security.token_store import TokenRecord, TokenStore

__all__ = [
    "Action",
    "Admission",
    "Authority",
    "Cluster",
    "ClusterFolder",
    "Credentials",
    "FileCredentials",
    "Grants",
    "Home",
    "HomeCredentials",
    "IssuedCredentials",
    "JoinToken",
    "JoinedCredentials",
    "Joiner",
    "PeerIdentity",
    "Policy",
    "SpiffePattern",
    "TokenRecord",
    "TokenStore",
    "cluster_fingerprint",
    "open_home",
    "parse_policy",
    "parse_token",
    "read_policy",
]
