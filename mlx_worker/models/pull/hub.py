"""A model out of a Hugging Face hub, by huggingface_hub in a process of its own.

    python -m mlx_worker.models.pull.hub ORG/REPO REVISION FOLDER        (REVISION may be empty)

The library works in threads that cannot be stopped and reads its settings at import, so it gets a
process: cancelling a pull ends it, and its own resume files stay in FOLDER. Only data is taken:
weights as safetensors, JSON, tokenizer files and templates; never code or pickles. [both]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import threading
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.errors import BrokenDownload, SourceUnavailable
from mlx_worker.models.pull.command import run_module, run_to_exit_code
from mlx_worker.models.pull.disk import require_space, storing
from mlx_worker.models.tokenizer_files import VOCABULARIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.models.pull.progress import Progress
    from mlx_worker.models.pull.sources import HubSource

# A star matches no folder here: what lies deeper is other formats of the same model.
WANTED: Final = ("model*.safetensors", "*.json", "*.jinja", "*.txt", *VOCABULARIES)

TEMPLATES: Final = re.compile(r"additional_chat_templates/[^/]+\.jinja")
"""The one folder that transformers reads beside."""

_REPORT_SECONDS: Final = 0.25


async def fetch_repository(
    source: HubSource, folder: Path, lock: int, on_progress: Progress
) -> str:
    """Download the model's files into `folder`, going on from what an earlier attempt left.

    Returns the commit. Raises SourceUnavailable, BrokenDownload or StorageError, each with the
    hub's reason in one line.
    """
    commit = ""

    def on_line(line: str) -> None:
        nonlocal commit
        match line.split():
            case ["commit", value]:
                commit = value
            case ["progress", done, total]:
                on_progress(int(done), int(total))

    await run_module(
        "mlx_worker.models.pull.hub",
        source.repo,
        source.revision or "",
        str(folder),
        lock=lock,
        on_line=on_line,
        bad_data=BrokenDownload,
    )
    return commit


def is_wanted(filename: str) -> bool:
    """Say whether a repository's file belongs to a model folder."""
    if "/" in filename:
        return TEMPLATES.fullmatch(filename) is not None
    return any(fnmatchcase(filename, pattern) for pattern in WANTED)


def _download(repo: str, revision: str | None, folder: Path) -> None:
    # Read at import: bars on stderr would stand where the parent looks for the error.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415

    with storing(folder), _hub_errors(repo, revision):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        files = [file for file in info.siblings or [] if is_wanted(file.rfilename)]
        _require_weights(repo, [file.rfilename for file in info.siblings or []])
        total = sum(file.size or 0 for file in files)
        require_space(folder, max(0, total - _bytes_in(folder)), f"hf:{repo}")
        _report(f"commit {info.sha}")
        with _reported_progress(folder, total):
            snapshot_download(
                repo,
                revision=info.sha,
                local_dir=folder,
                allow_patterns=[file.rfilename for file in files],
            )
        _check_digests(folder, files)


def _require_weights(repo: str, names: list[str]) -> None:
    if not any(fnmatchcase(name, WANTED[0]) for name in names):
        raise SourceUnavailable(f"hf:{repo} has no {WANTED[0]}: no weights that mlx_lm loads")


def _check_digests(folder: Path, files: list[Any]) -> None:
    """Compare the large files with the SHA-256 that the hub knows: the library checks sizes."""
    for file in files:
        if file.lfs is None:
            continue
        path = folder / file.rfilename
        with path.open("rb") as content:
            actual = hashlib.file_digest(content, "sha256").hexdigest()
        if actual != file.lfs.sha256:
            path.unlink()
            raise BrokenDownload(
                f"{path.name} has SHA-256 {actual} instead of {file.lfs.sha256}; deleted"
            )


@contextmanager
def _hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors  # noqa: PLC0415

    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceUnavailable(
            f"hf:{repo} is gated: accept its licence on the hub and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceUnavailable(f"hf:{repo} does not exist, or is private: set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise SourceUnavailable(f"hf:{repo} has no revision {revision}") from error
    # Its HTTPError is the HTTP library's own, the root of everything a connection can do.
    except (errors.HTTPError, errors.EntryNotFoundError, ConnectionError) as error:
        reason = str(error) or type(error).__name__
        raise SourceUnavailable(f"cannot download hf:{repo}: {reason}") from error


@contextmanager
def _reported_progress(folder: Path, total: int) -> Iterator[None]:
    """Report the bytes in the folder now and then: true for every way the library downloads."""
    finished = threading.Event()

    def report() -> None:
        while not finished.wait(_REPORT_SECONDS):
            _report(f"progress {min(_bytes_in(folder), total)} {total}")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
        _report(f"progress {total} {total}")
    finally:
        finished.set()
        reporter.join()


def _bytes_in(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(root, name).stat().st_size
            except FileNotFoundError:  # renamed once complete
                continue
    return total


def _report(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Download what the command line names; the exit code says what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m mlx_worker.models.pull.hub")
    parser.add_argument("repo")
    parser.add_argument("revision")
    parser.add_argument("folder", type=Path)
    named = parser.parse_args()
    return run_to_exit_code(lambda: _download(named.repo, named.revision or None, named.folder))


if __name__ == "__main__":
    sys.exit(main())
