"""The profile `upstream-0.5`: the platform's published server as it answers today, oddities included.

`profile` has the order of all checks; `routing`, `validator`, `gate` (limits and bans) and
`set_body` (a body as serde reads it) are the checks; `configs` and `values` what the store gives
back; `words` how all of it is said.
"""

from __future__ import annotations

from .profile import UpstreamProfile

__all__ = ["UpstreamProfile", "make_profile"]


def make_profile() -> UpstreamProfile:
    """Make the profile of one server."""
    return UpstreamProfile()
