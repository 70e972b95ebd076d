"""What each error tells the border that has to translate it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mlx_worker import errors
from mlx_worker.api.generation.accounting import outcome_of
from mlx_worker.errors import CHILD_CODES, WorkerError, error_class
from mlx_worker.supervisor.requests.generation import as_error
from mlx_worker.wire.messages import RequestFailed

FAMILY = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, WorkerError)
]
TWO_OF_A_CODE = {errors.ModelNotFoundError}
"""Raised to Python programs only: a request meets the other class of its code."""
CARRIED = [kind for kind in FAMILY if kind not in TWO_OF_A_CODE]
"""What another process of this node may name."""

SYSEXITS = {1, *range(64, 79)}

each_error = pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)


@each_error
def test_an_error_has_a_status_and_a_type_that_agree(kind: type[WorkerError]) -> None:
    """Client libraries choose their exception by one, people read the other."""
    expected = "invalid_request_error" if 400 <= kind.status < 500 else "server_error"
    assert 400 <= kind.status < 600
    named = {401: "authentication_error", 429: "rate_limit_error"}
    assert kind.kind == named.get(kind.status, expected)


@each_error
def test_an_error_has_a_code_a_program_can_compare(kind: type[WorkerError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)


@each_error
def test_an_error_has_an_exit_code_of_sysexits(kind: type[WorkerError]) -> None:
    assert kind.exit_code in SYSEXITS


@each_error
def test_an_error_keeps_what_it_was_told(kind: type[WorkerError]) -> None:
    error = kind("7 is over 5", param="max", retry_after=2.5)
    assert str(error) == error.message == "7 is over 5"
    assert (error.param, error.retry_after) == ("max", 2.5)
    assert (kind("x").param, kind("x").retry_after) == (None, None)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (errors.InvalidRequest, 400, "invalid_request"),
        (errors.MissingField, 422, "missing_field"),
        (errors.UnsupportedField, 400, "unsupported_field"),
        (errors.ContextLengthExceeded, 400, "context_length_exceeded"),
        (errors.BodyTooLarge, 413, "body_too_large"),
        (errors.UnknownModel, 404, "model_not_found"),
        (errors.ModelLoading, 503, "model_loading"),
        (errors.ModelFailed, 503, "model_failed"),
        (errors.NodeDraining, 503, "node_draining"),
        (errors.QueueFull, 429, "queue_full"),
        (errors.InferenceError, 500, "inference_error"),
        (errors.CacheError, 500, "cache_error"),
    ],
)
def test_a_refusal_has_the_status_that_its_callers_know(
    kind: type[WorkerError], status: int, code: str
) -> None:
    assert (kind.status, kind.code) == (status, code)


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (errors.ConfigError, 78),
        (errors.AddressInUse, 69),
        (errors.BadModelFolder, 65),
        (errors.ModelNotFoundError, 66),
        (errors.SourceUnavailable, 69),
        (errors.BrokenDownload, 65),
        (errors.StorageError, 73),
    ],
)
def test_a_command_ends_with_the_exit_code_that_says_why(
    kind: type[WorkerError], exit_code: int
) -> None:
    assert kind.exit_code == exit_code


def test_a_missing_model_is_an_inference_error() -> None:
    """Callers of the Python modules catch the one and mean both."""
    assert issubclass(errors.ModelNotFoundError, errors.InferenceError)


def test_codes_that_cross_the_pipe_are_one_a_class() -> None:
    assert len({kind.code for kind in CARRIED}) == len(CARRIED)


@pytest.mark.parametrize("kind", CARRIED, ids=lambda kind: kind.__name__)
def test_what_a_child_names_is_raised_in_the_front(kind: type[WorkerError]) -> None:
    error = as_error(RequestFailed(1, kind.code, "it went wrong"))
    assert type(error) is kind
    assert error.message == "it went wrong"


def test_unavailable_of_a_child_carries_the_time_of_the_next_try() -> None:
    """A client that is refused with a 503 is told when to come back, as by the front itself."""
    error = as_error(RequestFailed(1, errors.Unavailable.code, "the helper cannot be started"))
    assert (error.status, error.retry_after) == (503, 1)
    others = CHILD_CODES - {errors.Unavailable.code}
    assert [as_error(RequestFailed(1, code, "x")).retry_after for code in others] == [
        None for _ in others
    ]


CHILD_SIDE = (
    "child",
    "engine",
    "grammar_trial",
    "limits.py",
    "wire/tool_call_schemas.py",
    "validation.py",
)
NEVER_ABOUT_A_REQUEST = {
    "BadModelFolder": "LoadFailed",
    "ModelNotFoundError": "LoadFailed",
    "UnservableModel": "LoadFailed",
    "ProtocolViolation": "a pipe that the child ends",
    "InvalidSetting": "raised to Python programs, which have no pipe",
}
"""Errors that a child meets, and what becomes of each in place of `Failed`."""


def errors_named_in(file: Path) -> set[str]:
    """Return the classes of errors that a file imports or reaches through the module."""
    imported = {
        alias.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "mlx_worker.errors"
        for alias in node.names
    }
    return imported & {kind.__name__ for kind in FAMILY}


def test_every_error_of_the_childs_half_is_one_that_a_child_may_send() -> None:
    product = Path(errors.__file__).parents[1]
    parts = [product / part for part in CHILD_SIDE]
    files = [file for part in parts for file in ([part] if part.suffix else part.rglob("*.py"))]
    assert len(files) > len(CHILD_SIDE)
    named = set().union(*map(errors_named_in, files)) - NEVER_ABOUT_A_REQUEST.keys()
    assert len(named) > 5
    codes = {getattr(errors, name).code for name in named}
    assert codes == CHILD_CODES


@pytest.mark.parametrize("code", sorted(CHILD_CODES))
def test_every_code_that_a_child_may_send_is_known_to_the_front(code: str) -> None:
    assert error_class(code).code == code


@pytest.mark.parametrize("code", ["constraint_failed", "context_length_exceeded", "kv_too_large"])
def test_a_constraint_that_fails_is_no_failure_of_the_node(code: str) -> None:
    error = as_error(RequestFailed(1, code, "it cannot be kept", "response_format"))
    assert (error.status, error.param) == (400, "response_format")
    assert outcome_of(error) == "client_error"


def test_an_error_of_another_module_is_not_taken_from_a_child() -> None:
    """What a border invents for itself has no meaning on the pipe."""

    class Invented(WorkerError):
        code = "invented"

    assert type(as_error(RequestFailed(1, Invented.code, "?"))) is WorkerError


def test_a_code_that_nobody_knows_is_an_internal_error() -> None:
    assert type(as_error(RequestFailed(1, "from_the_future", "?"))) is WorkerError
