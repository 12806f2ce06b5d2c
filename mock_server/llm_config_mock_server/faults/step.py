"""What happens to one request: the form that every fault has, and the two that let a request through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llm_config_mock_server.messages import AS_USUAL, Delivery, Reply

from .delays import check_delay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .delays import Delay


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSpec:
    """An error to be said in the words of the server's profile."""

    code: str
    status: int
    message: str
    details: Mapping[str, Any]
    retriable: bool
    retry_after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Step:
    """What happens to one request.

    Args:
        name: What the journal calls it.
        effect: Whether the request really takes effect.
        error: The error to answer with.
        reply: The reply to answer with.
        transform: What is done to the real reply.
        before: How long to wait before the effect.
        after: How long to wait between the effect and the first byte.
        delivery: How the reply travels.
        early: Whether the head alone is answered, before the body is read.
        silent: Whether no reply is sent at all.
    """

    name: str
    effect: bool = True
    error: ErrorSpec | None = None
    reply: Reply | None = None
    transform: Callable[[Reply], Reply] | None = None
    before: Delay = 0.0
    after: Delay = 0.0
    delivery: Delivery = AS_USUAL
    early: bool = False
    silent: bool = False

    def __post_init__(self) -> None:
        check_delay("before", self.before)
        check_delay("after", self.after)

    def __repr__(self) -> str:
        return f"<Step {self.name}>"

    @property
    def answers(self) -> bool:
        """Whether anything is sent that the step made itself."""
        return self.error is not None or self.reply is not None

    def after_effect(self) -> Step:
        """Return the same step, taken after the request took effect: the answer is lost, the write is not."""
        return replace(self, name=f"{self.name} after effect", effect=True, early=False)

    def at_head(self) -> Step:
        """Return the same step, taken as soon as the head is there, before the body is read."""
        if self.effect:
            raise ValueError(f"{self.name} lets the request take effect, which needs its body")
        return replace(self, early=True)

    def delayed(self, *, before: Delay = 0.0, after: Delay = 0.0) -> Step:
        """Return the same step with a wait (seconds) before the effect, or before the first byte."""
        return replace(self, before=before, after=after)


def ok() -> Step:
    """Let the request through."""
    return Step(name="ok")


def latency(before: Delay = 0.0, *, after: Delay = 0.0) -> Step:
    """Let the request through, slowly.

    Args:
        before: Seconds to wait before it takes effect.
        after: Seconds to wait between the effect and the first byte of the reply.
    """
    return Step(name="latency after effect" if after else "latency", before=before, after=after)
