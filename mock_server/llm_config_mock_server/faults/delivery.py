"""Steps that change how the reply travels: not at all, in part, in drops, or on a connection that goes."""

from __future__ import annotations

from typing import Final, Literal

from llm_config_mock_server.messages import Delivery, Drip, End

from .step import Step

_GARBAGE: Final = b"\x16\x03\x01\x00\xff\xfe not HTTP at all \x00\r\n\r\n"
_TRUNCATED_TO: Final = 10  # bytes: enough to look like the beginning of a JSON body
_DRIP_INTERVAL: Final = 0.05  # seconds: slow to a person, quick for a test


def reset(*, keep: int | None = None) -> Step:
    """Tear the connection down with RST; the request takes no effect.

    Args:
        keep: Bytes of the body to send first (the request then takes effect); `None` for no reply at all.
    """
    if keep is None:
        return Step(name="reset", effect=False, silent=True, delivery=Delivery(end=End.RESET))
    return Step(name="reset in the body", delivery=Delivery(cut_body=keep, end=End.RESET))


def close() -> Step:
    """Close the connection without a reply; the request takes no effect."""
    return Step(name="close", effect=False, silent=True, delivery=Delivery(end=End.CLOSE))


def half_close() -> Step:
    """Close the server's direction without a reply and go on reading; the request takes no effect."""
    return Step(name="half-close", effect=False, silent=True, delivery=Delivery(end=End.HALF_CLOSE))


def hang() -> Step:
    """Never answer; the request takes no effect."""
    return Step(name="hang", effect=False, silent=True, delivery=Delivery(end=End.HANG))


def stall(*, keep: int = _TRUNCATED_TO) -> Step:
    """Send the head and `keep` bytes of the body, then nothing more, with the connection left open."""
    return Step(name="stall", delivery=Delivery(cut_body=keep, end=End.HANG))


def truncate(*, keep: int = _TRUNCATED_TO, head: int | None = None) -> Step:
    """Cut the real reply short and close.

    Args:
        keep: Bytes of the body that are sent, at least one less than promised.
        head: Bytes of status line and headers that are sent, instead: not even the head is whole.
    """
    cut = Delivery(cut_head=head, cut_body=None if head is not None else keep, end=End.CLOSE)
    return Step(name="truncate" if head is None else "truncate in the head", delivery=cut)


def garbage(data: bytes = _GARBAGE) -> Step:
    """Answer with bytes that are no HTTP and close; the request takes no effect."""
    return Step(name="garbage", effect=False, silent=True, delivery=Delivery(raw=data, end=End.CLOSE))


def drip(
    interval: float = _DRIP_INTERVAL, *, size: int = 1, part: Literal["head", "body", "both"] = "body"
) -> Step:
    """Let the real reply trickle.

    Args:
        interval: Seconds between two pieces.
        size: Bytes in a piece.
        part: What trickles.
    """
    if not interval >= 0:
        raise ValueError(f"interval must be 0 or more seconds, not {interval!r}")
    slow = Drip(interval, size)
    delivery = Delivery(head=None if part == "body" else slow, body=None if part == "head" else slow)
    return Step(name=f"drip of {'head and body' if part == 'both' else f'the {part}'}", delivery=delivery)


def stale(*, on_reuse: bool = False) -> Step:
    """Answer, say `keep-alive`, and let the idle connection go stale.

    Args:
        on_reuse: Close it only when the next request arrives, which is then lost unseen: what a
            client meets that loses the race. Else it is closed right after the reply.
    """
    if on_reuse:
        return Step(name="stale on reuse", delivery=Delivery(end=End.CLOSE_ON_REUSE))
    return Step(name="stale", delivery=Delivery(end=End.CLOSE))
