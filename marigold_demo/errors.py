"""What can be the visitor's fault. Knows nothing of where a message is shown.

DemoError
├── PhotoError       the photo cannot be read or used
├── DepthFileError   a depth file brought by the visitor cannot be read or used
├── SettingsError    a choice is out of range or two choices contradict each other
├── CheckpointError  weights are missing, damaged or of the wrong kind
└── DataError        a training or evaluation folder is not laid out as expected

Every message is one or two sentences: what is wrong, and what would work.
"""


class DemoError(Exception):
    """Something the visitor can put right; the message says how."""


class PhotoError(DemoError):
    """The photo cannot be read or used."""


class DepthFileError(DemoError):
    """A depth file cannot be read or used."""


class SettingsError(DemoError):
    """A choice is out of range, or two choices contradict each other.

    Attributes:
        field: The name of the setting that would have to change, where it is one.
    """

    def __init__(self, message: str = "", *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class CheckpointError(DemoError):
    """Weights are missing, damaged or of the wrong kind."""


class DataError(DemoError):
    """A data folder for training or evaluation is not laid out as expected."""
