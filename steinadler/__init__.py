"""Steinadler: cluster node distribution for Python on Trio.

    async with steinadler.open_node("alice") as node:
        ...

The layout, from the bottom up (each may import only from those above it in this list):

    errors, identity, config   the vocabulary: exceptions, names, settings
    wire        sans-IO   frames, codec, channels and credit, sessions, handshake, signals
    membership  sans-IO   SWIM: who is in the cluster
    registry    sans-IO   names of processes, here and cluster-wide; groups
    delivery    sans-IO   monitors, links, pending calls
    security              clusters, certificates, TLS contexts
    transport   Trio      TCP and TLS, links, connections
    discovery   Trio      mDNS, seeds, the runtime folder
    process     Trio      mailboxes and process tasks
    stream      Trio      channels of objects and streams of bytes between nodes
    entity      Trio      virtual actors: one owner each, durable state
    node        Trio      composes all of it; `open_node`
    supervision Trio      processes that keep others running, here or over the members
    sidecar     Trio      entities of programs in any language, behind HTTP
    diagnosis   Trio      what keeps nodes from meeting, found out from one machine
    cli                   the command line
    testing               a simulated network for your own tests

Everything public is in this module, in `steinadler.testing`, or in the module that its docs
name; docs/architecture.md follows a message through all of it.
"""

from steinadler.config import (
    Config,
    DialSettings,
    EntitySettings,
    MembershipSettings,
    Minority,
    StreamSettings,
    WireSettings,
)
from steinadler.entity.python import Entity, command
from steinadler.entity.router import EntityRef
from steinadler.errors import (
    CertificateRevoked,
    ClaimError,
    ConfigError,
    DeliveryError,
    EntityError,
    EntityHostFailed,
    EntityTimedOut,
    EntityUnavailable,
    InMinority,
    JoinFailed,
    LocalProtocolError,
    MailboxFull,
    MessageTooLarge,
    NameConflict,
    NodeClosed,
    NodeDown,
    NoSuchCommand,
    NoSuchEntityType,
    NoSuchProcess,
    NoSuchService,
    NotAuthorized,
    NotEncodable,
    ProcessExited,
    ProtocolError,
    RemoteError,
    RemoteProtocolError,
    SecurityError,
    StaleEpoch,
    StateTooLarge,
    SteinadlerError,
    StoreUnavailable,
    StreamError,
    StreamRefused,
)
from steinadler.identity import (
    Address,
    EntityKey,
    NodeId,
    ProcessId,
    ProcessName,
    SinkRef,
    SourceRef,
)
from steinadler.membership import Member, MemberState
from steinadler.node import (
    ALL,
    ConnectionStatistics,
    EventsLost,
    EventStream,
    Group,
    Joined,
    MembersLost,
    Monitor,
    Node,
    NodeStatistics,
    SidesMerged,
    join_cluster,
    open_node,
)
from steinadler.process import DEFAULT_EXPORTS as _EXPORTS
from steinadler.process import Call, Down, Exit, Process, ProcessStatistics
from steinadler.security import FileCredentials, Grants, Policy
from steinadler.stream import (
    ByteStream,
    ReceiveChannel,
    SendChannel,
    StreamListener,
    StreamStatistics,
)
from steinadler.supervision import (
    ChildInfo,
    ChildSpec,
    SupervisorSpec,
    cluster_supervisor,
    supervisor,
)
from steinadler.wire.codec import DEFAULT_MESSAGE_TYPES as _MESSAGE_TYPES

export = _EXPORTS.export
message = _MESSAGE_TYPES.register

__all__ = [
    "ALL",
    "Address",
    "ByteStream",
    "Call",
    "CertificateRevoked",
    "ChildInfo",
    "ChildSpec",
    "ClaimError",
    "Config",
    "ConfigError",
    "ConnectionStatistics",
    "DeliveryError",
    "DialSettings",
    "Down",
    "Entity",
    "EntityError",
    "EntityHostFailed",
    "EntityKey",
    "EntityRef",
    "EntitySettings",
    "EntityTimedOut",
    "EntityUnavailable",
    "EventStream",
    "EventsLost",
    "Exit",
    "FileCredentials",
    "Grants",
    "Group",
    "InMinority",
    "JoinFailed",
    "Joined",
    "LocalProtocolError",
    "MailboxFull",
    "Member",
    "MemberState",
    "MembersLost",
    "MembershipSettings",
    "MessageTooLarge",
    "Minority",
    "Monitor",
    "NameConflict",
    "NoSuchCommand",
    "NoSuchEntityType",
    "NoSuchProcess",
    "NoSuchService",
    "Node",
    "NodeClosed",
    "NodeDown",
    "NodeId",
    "NodeStatistics",
    "NotAuthorized",
    "NotEncodable",
    "Policy",
    "Process",
    "ProcessExited",
    "ProcessId",
    "ProcessName",
    "ProcessStatistics",
    "ProtocolError",
    "ReceiveChannel",
    "RemoteError",
    "RemoteProtocolError",
    "SecurityError",
    "SendChannel",
    "SidesMerged",
    "SinkRef",
    "SourceRef",
    "StaleEpoch",
    "StateTooLarge",
    "SteinadlerError",
    "StoreUnavailable",
    "StreamError",
    "StreamListener",
    "StreamRefused",
    "StreamSettings",
    "StreamStatistics",
    "SupervisorSpec",
    "WireSettings",
    "cluster_supervisor",
    "command",
    "export",
    "join_cluster",
    "message",
    "open_node",
    "supervisor",
]
