"""The errors DermSlim raises on purpose; each message says what was expected, then what came.

DermSlimError
├── SpecError          a run's parameters cannot be used
├── DatasetError       a folder cannot be read as a data set, or lies outside the allowed roots
│   └── NotOnThisHost  a folder that a run needs is not reached from here; from another host it may be
├── ImageError         one file cannot be decoded or encoded
├── StoreError         the database refuses what it was asked or given
│   └── StoreUnavailable   it takes nothing now, whatever it is asked: the disk is full, or it may not be read
│       ├── StoreBusy      another process holds it; trying again later may work
│       └── StoreDamaged   its file cannot be read any more; a backup has to be restored
├── QueueUnavailable   the Redis server does not answer
├── Cancelled          the user asked the run to stop
└── TakenOver          another worker was given the job
"""


class DermSlimError(Exception):
    """Base of every error whose message is meant for the user."""


class SpecError(DermSlimError, ValueError):
    """A run's parameters cannot be used."""


class DatasetError(DermSlimError):
    """A folder cannot be read as a data set, or lies outside the allowed data roots."""


class NotOnThisHost(DatasetError):
    """A folder that a run needs is not reached from this host; from another it may be."""


class ImageError(DermSlimError):
    """One image cannot be decoded or encoded."""


class StoreError(DermSlimError):
    """The database refuses what it was asked or given."""


class StoreUnavailable(StoreError):
    """The database takes nothing now, whatever it is asked: what should be recorded has to wait."""


class StoreBusy(StoreUnavailable):
    """Another process holds the database; trying again later may work."""


class StoreDamaged(StoreUnavailable):
    """The database's file cannot be read any more; a backup has to be restored."""


class QueueUnavailable(DermSlimError):
    """The Redis server does not answer."""


class Cancelled(DermSlimError):
    """The user asked the run to stop."""


class TakenOver(DermSlimError):
    """The job was begun again by another worker, or its run has ended: this one may write nothing more."""


def what_came(error: Exception) -> str:
    """Return what came of an error's message, where another says what was expected: `there is no such file`."""
    text = str(error)
    return text.partition("; ")[2] if text.lower().startswith("expected ") and "; " in text else text
