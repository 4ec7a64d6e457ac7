"""Errors that a user can cause; the command line prints each on one line."""


class DramaError(Exception):
    """Base of all errors that this package raises on purpose.

    The command line prints the message on one line of stderr and exits with code 2.
    """


class ConfigError(DramaError, ValueError):
    """A setting has the wrong type, is out of range, or contradicts another."""


class EnvError(DramaError):
    """An environment is unknown, cannot be adapted, or violates its contract."""


class UnknownEnvError(EnvError, KeyError):
    """No environment is registered under the requested id."""

    def __str__(self) -> str:
        """Return the message itself: ``KeyError`` would show its ``repr``."""
        return str(self.args[0]) if self.args else ""


class UnsupportedSpaceError(EnvError, ValueError):
    """The observation or action space is not supported."""


class EnvFaultError(EnvError, RuntimeError):
    """A running environment returned a NaN reward or an observation outside its space."""


class ReplayError(DramaError, RuntimeError):
    """The buffer holds too few transitions for a request, or a transition does not fit it."""


class CheckpointError(DramaError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to another agent or environment."""


class RunDirError(DramaError, FileExistsError):
    """A run directory exists already, is in use, or is not a run directory."""


class NonFiniteError(DramaError, FloatingPointError):
    """Training produced NaN or Inf; the message names the first tensor found."""
