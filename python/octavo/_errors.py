"""The exceptions of the package. Messages name the argument, its value and what would be right."""


class Error(Exception):
    """Base of all errors that Octavo raises."""


class InvalidProblemError(Error, ValueError):
    """The text does not parse, or the problem makes no sense."""


class InvalidArgumentError(Error, ValueError):
    """An argument of a run does not fit the plan."""


class UnsupportedError(Error, NotImplementedError):
    """No kernel, or not the forced one, can compute the problem; the message has the reasons."""


class UnavailableError(Error, RuntimeError):
    """The device is not there."""


class DeviceError(Error, RuntimeError):
    """The device's driver refused or failed a call."""


class CacheFullError(Error, RuntimeError):
    """A cache has too few pages for what was asked; it did nothing.

    missing    pages more than are free or cached
    """

    def __init__(self, missing: int) -> None:
        super().__init__(f"missing={missing}: pages more than are free or cached")
        self.missing = missing
