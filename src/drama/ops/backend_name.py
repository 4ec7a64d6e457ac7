"""Names of the backends that can be requested, importable without torch."""

from __future__ import annotations

from typing import Literal, get_args

from drama.errors import ConfigError

BackendName = Literal["auto", "torch", "kernels"]
"""What may be asked for: ``auto`` takes the kernels wherever they can be used."""


def check_backend_name(name: str) -> None:
    """Raise a :class:`ConfigError` if ``name`` is not a :data:`BackendName`."""
    if name not in get_args(BackendName):
        known = ", ".join(get_args(BackendName))
        raise ConfigError(f"backend must be one of {known}, got {name!r}")
