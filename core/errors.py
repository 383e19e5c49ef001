"""The errors of DermSlim. A message gives the expectation, then the actual value: "Expected X, got Y."

DermSlimError
├── SpecError          a run's parameters are invalid
├── DatasetError       a folder cannot be read as a data set, or is outside the data roots
│   └── NotOnThisHost  this host does not have the folder; another host may
├── ImageError         a file cannot be decoded or encoded
├── StoreError         the database rejects a statement or its values
│   └── StoreUnavailable   the database cannot be used: the disk is full, or the file may not be read
│       ├── StoreBusy      another process has it open; retrying may succeed
│       └── StoreDamaged   its file is damaged; restore a backup
├── QueueUnavailable   the Redis server does not answer
├── Cancelled          the user cancelled the run
└── TakenOver          another worker has the job
"""


class DermSlimError(Exception):
    """Base of the errors with a message for the user."""


class SpecError(DermSlimError, ValueError):
    """A run's parameters are invalid."""


class DatasetError(DermSlimError):
    """A folder cannot be read as a data set, or is outside the data roots."""


class NotOnThisHost(DatasetError):
    """This host does not have a folder that a run needs; another host may."""


class ImageError(DermSlimError):
    """An image cannot be decoded or encoded."""


class StoreError(DermSlimError):
    """The database rejects a statement or its values."""


class StoreUnavailable(StoreError):
    """The database cannot be used now; records wait."""


class StoreBusy(StoreUnavailable):
    """Another process has the database open; retrying may succeed."""


class StoreDamaged(StoreUnavailable):
    """The database's file is damaged; restore a backup."""


class QueueUnavailable(DermSlimError):
    """The Redis server does not answer."""


class Cancelled(DermSlimError):
    """The user cancelled the run."""


class TakenOver(DermSlimError):
    """Another worker has started the job again, or its run has ended: this worker must not write any more."""
