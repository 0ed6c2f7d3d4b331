"""What comes out of a node's block: its nurseries' groups of one are taken apart again."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from steinadler.errors import SteinadlerError


def single_error(group: BaseExceptionGroup, raised: BaseException | None = None) -> BaseException:
    """What the node's nurseries put into groups of one, however many; a larger group stays one.

    What the block `raised` comes out untouched, also when it is a group itself: cancel scopes
    make groups anew, so it cannot be told by identity.  But when the node failed too, errors of
    ours in the block (a call that went unanswered, say) are what came of that, and are left out.
    """
    if len(group.exceptions) == 1 and raised is not None and not _holds_cancelled(raised):
        return raised
    told = {id(each) for each in _leaves(raised)} if raised is not None else set()
    rest = [each for each in _leaves(group) if id(each) not in told]
    if len(rest) == 1 and (raised is None or all(map(_may_be_ours, _leaves(raised)))):
        return rest[0]
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _may_be_ours(error: BaseException) -> bool:
    return isinstance(error, (SteinadlerError, trio.Cancelled))


def _holds_cancelled(error: BaseException) -> bool:
    return any(isinstance(each, trio.Cancelled) for each in _leaves(error))
