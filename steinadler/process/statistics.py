"""What can be told of one process: figures that are there anyway, gathered when somebody asks."""

from __future__ import annotations

from dataclasses import dataclass

from steinadler.identity import ProcessId


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """One process at one moment.  "Messages" are whatever a mailbox takes, calls included.

    `messages_waiting` are in the mailbox, with `bytes_waiting` of encoded content;
    `messages_taken` is how many it received since it began.  `calls_owed` were taken or wait, and
    are not answered.  `local_credit_bytes` is what senders of its own node may still send before
    they wait; `local_senders_waiting` tasks do.  It holds `monitors` that have not fired, others
    hold `watchers` of it, and it has `links`.
    """

    id: ProcessId
    function: str
    names: tuple[str, ...]
    messages_waiting: int
    bytes_waiting: int
    messages_taken: int
    calls_owed: int
    local_credit_bytes: int
    local_senders_waiting: int
    monitors: int
    watchers: int
    links: int
