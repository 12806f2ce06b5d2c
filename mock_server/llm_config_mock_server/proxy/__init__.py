"""`FaultProxy`: breaks the wire before any server, one of ours or not.

It passes bytes on and knows nothing of HTTP. An *exchange* is what a client sends and all that comes
back before it sends again: on a kept-alive connection, one request and its reply.
"""

from __future__ import annotations

from .fault_proxy import FaultProxy
from .trouble import Certificate, Side, Trouble

__all__ = ["Certificate", "FaultProxy", "Side", "Trouble"]
