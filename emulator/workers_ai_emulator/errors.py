"""The errors that every layer may raise. Each message names the cause and the next step.

    EmulatorError
    ├── CommandError              a command cannot do its work: one line on stderr, exit status 1
    │   ├── StartError            the server cannot start
    │   │   ├── SettingInvalid
    │   │   ├── AddressUnavailable
    │   │   └── WeightsUnusable   missing, unreadable, not GGUF, or too large for the memory
    │   ├── PullFailed            weights cannot be downloaded
    │   └── ModelUnknown          the catalogue has no model with the name given to a command
    └── TransferInterrupted       a download failed and may be retried

`engine/errors.py` has the errors of generations, `wire/errors.py` those that a client receives.
"""

from __future__ import annotations


class EmulatorError(Exception):
    """The base of all errors that this package raises on purpose."""


class CommandError(EmulatorError):
    """A command cannot do its work. The message has one line for each mistake."""


class StartError(CommandError):
    """The server cannot start."""


class SettingInvalid(StartError):
    """A flag, an environment variable or a file that it names has an invalid value."""


class AddressUnavailable(StartError):
    """The server cannot listen on the configured host and port."""


class WeightsUnusable(StartError):
    """The weights of a model cannot be loaded."""


class PullFailed(CommandError):
    """Weights cannot be downloaded. The bytes received so far are kept."""


class ModelUnknown(CommandError):
    """The catalogue has no model of this name."""


class TransferInterrupted(EmulatorError):
    """A download broke off, or could not begin, and may be retried."""
