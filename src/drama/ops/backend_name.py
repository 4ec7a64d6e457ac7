"""Names of backends, importable without torch."""

from __future__ import annotations

from typing import Literal, get_args

from drama.errors import ConfigError

BackendName = Literal["auto", "torch", "kernels"]
"""What can be requested: ``auto`` uses the kernels wherever they can run."""
ChosenBackend = Literal["torch", "kernels"]
"""What runs a call."""


def check_backend_name(name: str) -> None:
    """Raise a :class:`ConfigError` if ``name`` is not a :data:`BackendName`."""
    if name not in get_args(BackendName):
        known = ", ".join(get_args(BackendName))
        raise ConfigError(f"backend must be one of {known}, got {name!r}")
