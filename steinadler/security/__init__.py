"""Who may take part: the cluster's authority, this node's certificate, and how a peer is told.

A cluster *is* its certificate authority.  Whoever holds a certificate signed by it is a peer,
named and given a role by that certificate (`peer`); nobody else gets past the TLS handshake
(promise X2).

On disk:

    files               files that hold secrets, and the lock under which they are made
    home                where a user's clusters are; makes the default one on first use
    cluster_folder      what is kept of one cluster, and in which order it changes

Certificates:

    authority           signs with a cluster's key, and does nothing else
    signing_request     how a key that stays where it is gets a certificate
    credentials         what a node shows, and how it judges what peers show
    home_credentials    credentials in a user's home
    from_files          credentials in files that another PKI, or a join, has put there
    contexts            TLS contexts of these: what is asked of every connection
    pattern             how SPIFFE IDs are written, and read
    peer                who a certificate says its holder is

Whom to trust, as it changes:

    trust               the signed document that says so, which nodes pass on to each other
    revocation          who was revoked: names
    rotation            another authority in place of the present one, step by step

Letting a machine in that does not have the key:

    token               join tokens: one line of text, for one use
    token_store         the tokens that a home gave out, and the names that came in by them
    enrolment           the protocol by which a machine asks
    joiner              its side of it
    registrar           the side of the cluster, where the key is

What a peer may do:

    policy              what its role lets it do
    policy_file         reads that from a file
    audit               tells of refusals, within bounds

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
