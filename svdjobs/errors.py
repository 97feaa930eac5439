"""The whole exception tree.

    SvdjobsError
    ├── ConfigError(ValueError)            exit 2   a config key, a flag, an alpha
    │   └── RefusedError(PermissionError)  exit 2   the Kubernetes API said no
    ├── CheckpointError(ValueError)        exit 2   a checkpoint that cannot be read or paired
    │   └── TensorError                    exit 2   one tensor of it: NaN, cut off, bad dtype
    ├── BenchmarkError(ValueError)         exit 2   a benchmark that is missing, empty or malformed
    ├── OutputError(ValueError)            exit 2   the output place holds something else
    ├── FormatError(RuntimeError)          exit 2   a record that a newer svdjobs has written
    ├── NumericalError(ArithmeticError)    exit 2   a self-check failed twice
    ├── IncompleteError(RuntimeError)      exit 2   an earlier stage has not been run
    ├── StorageError(OSError)              exit 4   disk full, store unreachable
    │   ├── DamagedError                    exit 4   an object that is not what its key says
    │   ├── MissingKeyError(FileNotFoundError)
    │   ├── BusyError                       exit 75  another process holds what is to be written
    │   └── UnavailableError(ConnectionError)  exit 75  a store that does not answer for now
    ├── ClusterError(RuntimeError)         exit 4   something on the cluster is gone or cannot be
    └── EvaluationError(RuntimeError)      exit 4   an engine or a grading worker that would not run

Each message says which thing, what was found, what was expected and what to do. `exit_code` is the
one place that maps an exception to the process's exit code.
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
    """Everything this package raises on purpose; `str(error)` is meant for a person, a terminal
    and a log: what it quotes forges no line there, and no address in it shows a password."""

    exit_code = EXIT_USAGE

    def __str__(self) -> str:
        return escape.message(super().__str__())


class ConfigError(SvdjobsError, ValueError):
    """A config key, a flag or a value of one."""


class RefusedError(ConfigError, PermissionError):
    """The Kubernetes API answered, and said no; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class CheckpointError(SvdjobsError, ValueError):
    """A checkpoint that cannot be read, or two that cannot be paired."""


class TensorError(CheckpointError):
    """One tensor of a checkpoint."""


class BenchmarkError(SvdjobsError, ValueError):
    """A benchmark that is missing, empty or malformed."""


class OutputError(SvdjobsError, ValueError):
    """The output place already holds something else."""


class FormatError(SvdjobsError, RuntimeError):
    """A record that a newer svdjobs has written. (No ValueError: pydantic would take it for one of
    its own.)"""


class NumericalError(SvdjobsError, ArithmeticError):
    """A numerical self-check failed in every method tried."""


class IncompleteError(SvdjobsError, RuntimeError):
    """An input of this stage has not been produced yet."""


class StorageError(SvdjobsError, OSError):
    """The disk or the store refused."""

    exit_code = EXIT_INFRASTRUCTURE


class DamagedError(StorageError):
    """What lies under a key is not what it should be: cut off, or something else."""


class MissingKeyError(StorageError, FileNotFoundError):
    """A key that should exist does not."""


class BusyError(StorageError):
    """Another process is writing what is to be written; when it has ended, the run goes on."""

    exit_code = EXIT_TRY_AGAIN


class UnavailableError(StorageError, ConnectionError):
    """A store or an API does not answer for now, or cut a connection; later it may."""

    exit_code = EXIT_TRY_AGAIN


class ClusterError(SvdjobsError, RuntimeError):
    """Something on the cluster went away, or cannot be had there."""

    exit_code = EXIT_INFRASTRUCTURE


class EvaluationError(SvdjobsError, RuntimeError):
    """An engine or a grading worker that would not run."""

    exit_code = EXIT_INFRASTRUCTURE


def first_line(error: BaseException) -> str:
    """What an error of a library says first, fit for a line of a log; its type where it says
    nothing."""
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
    """Turn an operating-system error into ours, saying what was being done and what to do now."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"{doing}: no space left on the disk. Free some space (or point `store` at another "
            f"disk) and run the same command again: finished outputs are kept and skipped."
        )
    return StorageError(f"{doing}: {error.strerror or error}.")
