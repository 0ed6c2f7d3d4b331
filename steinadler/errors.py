"""Every exception the library raises, named by who must act.

`ConfigError` and `LocalProtocolError` are yours to fix; `SecurityError` is the operator's;
`RemoteProtocolError` is the peer's; `DeliveryError` is the ordinary weather of a distributed
system and says what became of a message or a call (promise C1 lists the complete set);
`RemoteError` is somebody else's exception, told by name and text.

There is no time-out type: callers bound their waits with `trio.fail_after` or
`trio.move_on_after`, and see Trio's own `TooSlowError`.
"""

from __future__ import annotations

from enum import StrEnum


class SteinadlerError(Exception):
    """The base of everything below."""


class ConfigError(SteinadlerError, ValueError):
    """An argument, a setting or a file does not make sense; the text says which and what to do."""


class NodeClosed(SteinadlerError):
    """The node was used before it opened or after it closed."""


class SecurityError(SteinadlerError):
    """Credentials are missing, unreadable, unsafe, or not accepted."""


class CertificateRevoked(SecurityError):
    """A certificate, or every one of its name, was taken back: a peer's, or this node's own.

    A node whose own is revoked ends with this: to start it again is in vain until the name is
    readmitted.
    """


class NotAuthorized(SecurityError):
    """The peer is known, but may not do what it asked: the policy of the node in the text does not
    let the asker's role.  Nothing ran.

    Not told when a message or a request to exit is refused: nothing comes back of these.
    """


class JoinFailure(StrEnum):
    """What a joiner itself finds to be in its way."""

    UNREACHABLE = "unreachable"  # no node answered
    IMPOSTOR = "impostor"  # who answers is not of the token's cluster
    CLOCK = "clock"  # this machine's and the issuer's do not agree
    BAD_ANSWER = "bad-answer"  # the issuer's answer, or a certificate in it, makes no sense
    EXPIRED = "expired"  # the token, by this machine's clock


class JoinFailed(SecurityError):
    """A cluster could not be joined by a token; the text says why, and what to do.

    `reason` is a word for programs: a `JoinFailure`, or what the issuer says, of which this version
    knows `steinadler.security.token_store.Refusal`'s values.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class ProtocolError(SteinadlerError):
    """The rules of the wire were broken."""


class LocalProtocolError(ProtocolError):
    """This side asked the protocol for something that it does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow; its connection is closed."""


class DeliveryError(SteinadlerError):
    """A message or a call did not get through; the subclass says why."""


class NoSuchProcess(DeliveryError):
    """The destination names no living process (Erlang's `noproc`)."""

    def __init__(self, destination: object) -> None:
        super().__init__(f"no process at {destination}")
        self.destination = destination


class ProcessExited(DeliveryError):
    """The process ended before it answered; `reason` is its exit reason."""

    def __init__(self, destination: object, reason: str) -> None:
        super().__init__(f"{destination} exited before it answered: {reason}")
        self.destination = destination
        self.reason = reason


class NodeDown(DeliveryError):
    """The destination's node is not, or is no longer, a member; `reason` says since when or why."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"node {node!r} is down: {reason}")
        self.node = node
        self.reason = reason


class NameConflict(DeliveryError):
    """A name is held already, by another process of this node or another node of the cluster."""


class InMinority(DeliveryError):
    """This node's side of a partition is the smaller one, and its `Config.in_minority` says what
    that means; the text says how many of how many members are here."""


class MailboxFull(DeliveryError):
    """`send_nowait` would have to wait: the destination has not consumed what it already has.

    Or a node does not read: so much waits for it already that it can be asked nothing more.
    """


class MessageTooLarge(DeliveryError):
    """The encoded message is over `max_message_bytes`."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the message takes {size} bytes, and the limit (max_message_bytes) is {limit}; "
            "send it in parts, or raise the limit on both nodes"
        )
        self.size = size
        self.limit = limit


class NotEncodable(DeliveryError, TypeError):
    """The message holds something that cannot travel; the text names the type."""


class StreamError(DeliveryError):
    """A stream did not come to be; the subclass says why."""


class NoSuchService(StreamError):
    """The node, or with "@*" every member, offers no service of that name."""


class StreamRefused(StreamError):
    """The service is offered, and more connections wait or are open than its node allows."""


class ClaimError(StreamError):
    """A channel's end that was given away has not found its one new owner: it was claimed already,
    or withdrawn, or nobody claimed it in time."""


class RemoteError(SteinadlerError):
    """The called code raised; `type_name` and `text` tell what.  The object never travels."""

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(f"{type_name}: {text}" if text else type_name)
        self.type_name = type_name
        self.text = text


class EntityError(SteinadlerError):
    """A call to an entity did not do what it should; the subclass says why.

    Unless the subclass says so, the turn may have run.
    """


class NoSuchEntityType(EntityError):
    """No member hosts this type of entity, and none did within the time to wait.  Nothing ran."""


class NoSuchCommand(EntityError):
    """The entity has no such command, or it is not for callers.  Nothing ran."""


class EntityHostFailed(EntityError):
    """What runs the entity's turns broke off: its node or its program died in the turn, say, which
    may have run."""


class EntityTimedOut(EntityError):
    """The turn did not end within the caller's time.  It may run still."""


class EntityUnavailable(EntityError):
    """The entity is moving, its host drains, its program is down, or too many wait for it.  Nothing
    ran: the call may be made again."""


class StaleEpoch(EntityError):
    """Another node has taken the entity over: what this turn wrote was refused (E1)."""


class StateTooLarge(EntityError):
    """What a turn would store is over the store's limits.  Nothing of it was stored."""


class StoreUnavailable(EntityError):
    """The store of the entity's state cannot be asked now.  Whether a write that was under way
    stands is not known."""
