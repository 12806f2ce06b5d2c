"""Conditions: a component of the platform fails by itself, and everything above it reacts for real.

`server.conditions["store"] = "StorageFull"` makes the store raise what a full disk would make it
raise. Nothing is scripted above it: bypass, rollback and audit run as they do in the platform.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from llm_config_sdk.contract import SYSTEM_KINDS, TRANSIENT_KINDS

Component = Literal["service", "store", "audit", "cache", "vault", "entropy", "rbac"]
COMPONENTS: Final[tuple[Component, ...]] = get_args(Component)

UNAVAILABLE: Final = "unavailable"  # the component cannot be reached
PANIC: Final = "panic"  # the component has a defect
DISCONNECTED: Final = "disconnected"  # the store's database connection is lost
LOSSY: Final = "lossy"  # the audit log says that it wrote an event down, and did not
IO_KINDS: Final = SYSTEM_KINDS | TRANSIENT_KINDS
KINDS: Final = IO_KINDS | {UNAVAILABLE, PANIC, DISCONNECTED, LOSSY}


class ComponentFailureError(Exception):
    """A component failed; what it means to a caller is for the module above it to say."""

    def __init__(self, component: Component, kind: str, message: str) -> None:
        """Remember which component failed, and how."""
        super().__init__(message)
        self.component = component
        self.kind = kind
        self.message = message

    @property
    def is_io(self) -> bool:
        """Whether the operating system said no, so that `kind` names what it said."""
        return self.kind in IO_KINDS


@dataclass(frozen=True, slots=True)
class Condition:
    """A component's trouble.

    Args:
        kind: `unavailable`, `panic`, `disconnected` (the store's database), or an I/O error's kind
            (`StorageFull`, `QuotaExceeded`, `OutOfMemory`, `PermissionDenied`, `Interrupted`, …); for the
            audit log also `lossy`: it says that it wrote an event down, and did not.
        count: How many operations of the component fail before it is well again; `None` for all.
    """

    kind: str
    count: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown condition {self.kind!r}: expected one of {', '.join(sorted(KINDS))}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1, not {self.count}")


class Conditions(MutableMapping[str, "Condition | str"]):
    """The conditions that the components are in: a mapping from component to `Condition` or its kind.

    Raises:
        KeyError: There is no component of that name.
        ValueError: There is no condition of that kind.
    """

    def __init__(self) -> None:
        """Begin with every component well."""
        self._conditions: dict[str, Condition] = {}

    def __getitem__(self, component: str) -> Condition:
        """Return the condition a component is in."""
        return self._conditions[component]

    def __setitem__(self, component: str, condition: Condition | str) -> None:
        """Bring a component into a condition."""
        if component not in COMPONENTS:
            raise KeyError(f"unknown component {component!r}: expected one of {', '.join(COMPONENTS)}")
        condition = Condition(condition) if isinstance(condition, str) else condition
        if condition.kind == LOSSY and component != "audit":
            raise ValueError(f"the condition {LOSSY} is for audit, not for {component}")
        self._conditions[component] = condition

    def __delitem__(self, component: str) -> None:
        """Make a component well again."""
        del self._conditions[component]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the components that are not well."""
        return iter(self._conditions)

    def __len__(self) -> int:
        """Count the components that are not well."""
        return len(self._conditions)

    def __repr__(self) -> str:
        return f"Conditions({self._conditions!r})"

    def check(self, component: Component) -> None:
        """Raise what a component's condition makes it raise; every operation of a component begins so.

        Raises:
            ComponentFailureError: The component is not well.
        """
        condition = self._conditions.get(component)
        if condition is None or condition.kind == LOSSY:
            return
        self._use_up(component, condition)
        raise ComponentFailureError(component, condition.kind, _MESSAGES.get(condition.kind, condition.kind))

    def loses(self, component: Component) -> bool:
        """Whether a component is to lose, without a word, what it is given now."""
        condition = self._conditions.get(component)
        if condition is None or condition.kind != LOSSY:
            return False
        self._use_up(component, condition)
        return True

    def _use_up(self, component: Component, condition: Condition) -> None:
        if condition.count == 1:
            del self._conditions[component]
        elif condition.count is not None:
            self._conditions[component] = replace(condition, count=condition.count - 1)


_MESSAGES: Final = {
    UNAVAILABLE: "temporarily unavailable",
    PANIC: "internal invariant violated",
    DISCONNECTED: "connection to the database lost",
    "StorageFull": "No space left on device (os error 28)",
    "QuotaExceeded": "Disk quota exceeded (os error 122)",
    "OutOfMemory": "Cannot allocate memory (os error 12)",
    "PermissionDenied": "Permission denied (os error 13)",
    "ReadOnlyFilesystem": "Read-only file system (os error 30)",
    "TooManyOpenFiles": "Too many open files (os error 24)",
    "InputOutput": "Input/output error (os error 5)",
    "InvalidFilename": "File name too long (os error 36)",
    "Interrupted": "Interrupted system call (os error 4)",
    "TimedOut": "Connection timed out (os error 110)",
    "WouldBlock": "Resource temporarily unavailable (os error 11)",
}
