"""Errors that end a command; the exit codes follow sysexits.h.

A node reports a few of them over HTTP too, such as a broken model folder. [both]
"""

from __future__ import annotations

from mlx_worker.errors.base import WorkerError


class ConfigError(WorkerError):
    """The configuration is invalid or cannot be applied."""

    code = "config_error"
    exit_code = 78


class NothingServed(WorkerError):
    """No model could be served for `exit_when_failed_for`; a new process may succeed."""

    code = "nothing_served"
    exit_code = 70


class AddressInUse(WorkerError):
    """The address to listen on is in use, or this process may not use it."""

    code = "port_taken"
    exit_code = 69


class NodeUnreachable(WorkerError):
    """No node answers at this address."""

    code = "node_unreachable"
    exit_code = 69


class NotInTime(WorkerError):
    """A model does not have the state that a command waits for within the command's limit."""

    code = "not_in_time"
    exit_code = 75


class ModelInUse(WorkerError):
    """A model's folder is in use and is not removed."""

    code = "model_in_use"
    exit_code = 75


class BadModelFolder(WorkerError):
    """A model folder with something missing or broken in it."""

    code = "bad_model_folder"
    exit_code = 65


class UnservableModel(WorkerError):
    """A model loads, but this engine cannot run it."""

    code = "unservable_model"
    exit_code = 65


class SourceUnavailable(WorkerError):
    """A model's source could not be reached or does not have it."""

    code = "source_unavailable"
    exit_code = 69


class BrokenDownload(WorkerError):
    """A download has the wrong size or checksum, or is not an archive."""

    code = "broken_download"
    exit_code = 65


class StorageError(WorkerError):
    """A file cannot be written: the disk is full, read-only or not permitted."""

    code = "cannot_store"
    exit_code = 73


class ServiceManagerError(WorkerError):
    """The system's service manager failed, or this system has no supported one."""

    code = "cannot_serve"
    exit_code = 71


class BenchmarkError(WorkerError):
    """A measured server did not start or did not answer."""

    code = "not_measured"
    exit_code = 69
