"""One operation of the model: what is asked of the gateway, and what it does to the reference when it is done."""

from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EIO, ENOTCONN, ESTALE

import requests
from botocore.exceptions import BotoCoreError, ClientError


class Temporary(Exception):
    """The gateway said "not now" where a client has no exception of its own for it."""


@dataclass
class Operation:
    """`run` makes the call and compares its answer with what the reference says; `effect` is for when it succeeded.

    `leaves`: what a failure on the way may leave behind that neither the old nor the new state has.
    """

    text: str
    touched: list[str]
    run: Callable[[], object]
    effect: Callable[[], object] | None = None
    leaves: dict[str, bytes] = field(default_factory=dict)


def is_temporary(error: Exception) -> bool:
    """Whether an operation that ended like this may have been done or not, and may be asked for again."""
    match error:
        case ClientError():
            return error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
        case OSError(errno=number) if not isinstance(error, requests.RequestException):
            return number in (EIO, ENOTCONN, ESTALE)
        case _:
            return isinstance(error, (Temporary, BotoCoreError, requests.RequestException))
