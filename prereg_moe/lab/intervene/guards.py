"""The ways an intervention can fail to be what was asked. Each stops the run and leaves the model as it was."""

from __future__ import annotations

from prereg_moe.errors import Stopped

__all__ = ["HooksLost", "Leak", "Nested", "NeverFired", "NotFinite", "Starved", "Unreadable"]


class Leak(Stopped):
    """A masked expert was selected, or a forced one was not."""


class NotFinite(Stopped):
    """A gate is NaN or infinite."""


class NeverFired(Stopped):
    """An intervention did not happen: a layer, a condition or a scope was never reached."""


class HooksLost(Stopped):
    """Someone else removed or replaced what the session installed on the model."""


class Starved(Stopped):
    """So many experts are masked that a router could not select k of the rest."""


class Nested(Stopped):
    """The model is already inside a session."""


class Unreadable(Stopped):
    """A forward pass cannot be read exactly: padding, rows or positions cannot be told."""
