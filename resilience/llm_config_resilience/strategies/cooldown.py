"""What one caller was told, all callers keep to: a server that asks to be left alone is, by everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llm_config_resilience.errors import RateLimitedError, without_frames
from llm_config_resilience.locks import new_lock

if TYPE_CHECKING:
    from llm_config_resilience.context import Context

#: Seconds a server may silence all callers; it may ask for more again then.
_LONGEST: Final = 60.0


class Cooldown:
    """A time in which no call is made, since a server said so. Shared by threads, event loops and pipelines.

    It begins with an error that says `is_rate_limited` (HTTP's 429) and carries a `retry_after`, and lasts as
    long as that asks for, 60 s at most. Calls that come meanwhile wait, or are turned away where their
    deadline is nearer.

    Args:
        until: When it ends, in seconds on the pipelines' monotonic clock; 0 for none at first.
    """

    def __init__(self, until: float = 0.0) -> None:
        self._lock = new_lock()
        self._cause: BaseException | None = None
        #: When it ends, on the pipelines' clock; 0 while there is none.
        self.until: float = until

    def __repr__(self) -> str:
        return f"Cooldown(until={self.until})"

    def heed(self, ctx: Context, error: Exception | None, asked: float | None) -> None:
        """Begin or prolong it, if the error is of that kind.

        Args:
            ctx: The call that got the error.
            error: The error.
            asked: Seconds it asks for.
        """
        if asked and getattr(error, "is_rate_limited", False) is True:
            until = ctx.now() + min(asked, _LONGEST)
            with self._lock:
                if until > self.until and error is not None:
                    self.until, self._cause = until, without_frames(error)

    def left(self, ctx: Context) -> float:
        """Seconds a call has to wait still; what is over is forgotten."""
        seconds = self.until - ctx.now()
        if seconds > 0:
            return seconds
        with self._lock:
            if self.until <= ctx.now():
                self.until, self._cause = 0.0, None
        return 0.0

    def refuse(self, ctx: Context, at: int, seconds: float) -> RateLimitedError:
        """Make the error of a call that cannot wait so long; its cause is what the server said."""
        layer = ctx.pipeline.labels[at]
        error = RateLimitedError(
            f"the server asked to be left alone for {seconds:.3f} s more", name=layer, retry_after=seconds
        )
        error.__cause__ = self._cause
        ctx.emit("rejected", at, error=error, delay=seconds)
        return error
