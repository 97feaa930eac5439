"""The exceptions of svdjobs, and the exit code that each ends a process with.

    SvdjobsError
    ├── ConfigError(ValueError)            exit 2   a config key, a flag or an alpha
    │   └── RefusedError(PermissionError)  exit 2   the Kubernetes API refused a request
    ├── CheckpointError(ValueError)        exit 2   a checkpoint that cannot be read or paired
    │   └── TensorError                    exit 2   one tensor: NaN, cut off, bad dtype
    ├── BenchmarkError(ValueError)         exit 2   a benchmark that is missing, empty or malformed
    ├── OutputError(ValueError)            exit 2   the store already holds something else
    ├── FormatError(RuntimeError)          exit 2   a newer svdjobs has written a record
    ├── NumericalError(ArithmeticError)    exit 2   a self-check failed twice
    ├── IncompleteError(RuntimeError)      exit 2   an earlier stage has not been run
    ├── StorageError(OSError)              exit 4   disk full, store unreachable
    │   ├── DamagedError                    exit 4   the content of a key is not what it should be
    │   ├── MissingKeyError(FileNotFoundError)  exit 4   a key that does not exist
    │   ├── BusyError                       exit 75  another process is writing the same output
    │   └── UnavailableError(ConnectionError)  exit 75  a store or an API does not answer for now
    │       └── OvertakenError              exit 75  another process has restarted the same output
    ├── ClusterError(RuntimeError)         exit 4   something on the cluster is gone or unavailable
    └── EvaluationError(RuntimeError)      exit 4   an engine or a grading worker does not run

A message names the thing (tensor, key, file, field), what was found, what was expected and what to
do. Only `exit_code` maps exceptions to exit codes.
"""

from __future__ import annotations

import errno

from svdjobs import escape

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_REGRESSION = 3
EXIT_INFRASTRUCTURE = 4
EXIT_TIMED_OUT = 5
EXIT_TRY_AGAIN = 75
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class SvdjobsError(Exception):
    """Base of all errors that svdjobs raises on purpose.

    `str(error)` is safe to show in a terminal or a log: quoted text cannot look like another line,
    and URLs show no password.
    """

    exit_code = EXIT_USAGE

    def __str__(self) -> str:
        return escape.message(super().__str__())


class ConfigError(SvdjobsError, ValueError):
    """A config key, a flag, or the value of one is wrong."""


class RefusedError(ConfigError, PermissionError):
    """The Kubernetes API refused a request; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class CheckpointError(SvdjobsError, ValueError):
    """A checkpoint that cannot be read, or two that cannot be paired."""


class TensorError(CheckpointError):
    """One tensor of a checkpoint is unusable."""


class BenchmarkError(SvdjobsError, ValueError):
    """A benchmark that is missing, empty or malformed."""


class OutputError(SvdjobsError, ValueError):
    """The store or folder for the output already holds something else."""


class FormatError(SvdjobsError, RuntimeError):
    """A record that a newer svdjobs has written. (No ValueError: pydantic would take it for one of
    its own.)"""


class NumericalError(SvdjobsError, ArithmeticError):
    """A numerical self-check failed with every method."""


class IncompleteError(SvdjobsError, RuntimeError):
    """An input of this stage is missing, because an earlier stage has not been run."""


class StorageError(SvdjobsError, OSError):
    """The disk or the store refused to read or write."""

    exit_code = EXIT_INFRASTRUCTURE


class DamagedError(StorageError):
    """The content of a key is cut off, or is not what it should be."""


class MissingKeyError(StorageError, FileNotFoundError):
    """A key that should exist does not."""


class BusyError(StorageError):
    """Another process is writing the same output; once it has ended, the run can resume."""

    exit_code = EXIT_TRY_AGAIN


class UnavailableError(StorageError, ConnectionError):
    """A store or an API does not answer, or cut a connection; it may answer later."""

    exit_code = EXIT_TRY_AGAIN


class OvertakenError(UnavailableError):
    """Another process has restarted the output that this one was making."""


class ClusterError(SvdjobsError, RuntimeError):
    """Something on the cluster is gone, or the cluster cannot provide it."""

    exit_code = EXIT_INFRASTRUCTURE


class EvaluationError(SvdjobsError, RuntimeError):
    """An engine or a grading worker does not run."""

    exit_code = EXIT_INFRASTRUCTURE


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, made safe for a log; the type of the error if
    the message is empty."""
    said = (escape.line(text.strip()) for text in str(error).splitlines())
    return next((text for text in said if text), type(error).__name__)


def exit_code(error: BaseException) -> int:
    """The process's exit code for an exception that ended it."""
    if isinstance(error, SvdjobsError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, TimeoutError):
        return EXIT_TIMED_OUT
    return EXIT_INFRASTRUCTURE


def from_os_error(error: OSError, *, doing: str) -> StorageError:
    """A StorageError for an operating-system error; `doing` says what failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"{doing}: no space left on the disk. Free some space (or point `store` at another "
            f"disk) and run the same command again: finished outputs are kept and skipped."
        )
    return StorageError(f"{doing}: {error.strerror or error}.")
