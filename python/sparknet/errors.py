"""What SparkNet raises. Each says the fact and the way out in one sentence, the one that the command says too."""


class SparkNetError(Exception):
    """The base of all errors of SparkNet."""


class InputError(SparkNetError, ValueError):
    """What a file or an argument says is wrong or does not go together."""


class FileError(SparkNetError, OSError):
    """A file cannot be read or written; ``errno`` has the system's number."""


class MissingFileError(FileError, FileNotFoundError):
    """A file or folder is not there."""


class BusyError(SparkNetError, RuntimeError):
    """A net or solver is in use by another thread."""


class InternalError(SparkNetError, RuntimeError):
    """A bug of SparkNet's."""
