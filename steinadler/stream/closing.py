"""How an end of a stream is left: closed in order, or with an error that the other end hears of."""

from __future__ import annotations

from abc import abstractmethod
from types import TracebackType

import trio


class Closing(trio.abc.AsyncResource):
    """What is closed at the end of an `async with` block; when the block raises or is cancelled,
    with that error: what is half sent is not to look whole."""

    @abstractmethod
    def close(self, error: BaseException | None = None) -> None:
        """Close this end now; with an error, the other end is told that instead of an end."""

    async def aclose(self) -> None:
        """As `close`; a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(error)
        await trio.lowlevel.checkpoint()
