"""Profiles: the ways in which servers of the platform speak."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from llm_config_mock_server.core import Profile

__all__ = ["PROFILES", "ProfileName", "load_profile"]

ProfileName = Literal["guide", "upstream-0.5"]
PROFILES: Final[tuple[ProfileName, ...]] = get_args(ProfileName)


def load_profile(name: str) -> Profile:
    """Make a profile by name: one for each server, since a profile may keep something of its own.

    Raises:
        ValueError: There is no profile of that name.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: expected one of {', '.join(PROFILES)}")
    module = import_module(f"{__name__}.{name.replace('-', '_').replace('.', '_')}")
    profile: Profile = module.make_profile()
    return profile
