"""The ways in which a request is refused, each in OpenAI's error shape.

A message names the field or the rule and the remedy; never a value that the client sent, except the name
of an unknown field, which goes back to the client alone.
"""

from __future__ import annotations

from typing import Final

import msgspec

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: the HTTP status.
        code: a short word for programs and for the ledger; never made from what the client sent.
        message: a sentence for the caller.
        param: the request field it is about.
        close: whether the connection ends with it (the rest of the request is not read).
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, close: bool = False
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.close = close

    def body(self) -> bytes:
        """The JSON document of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return msgspec.json.encode(
            {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
        )


def unknown_route() -> Refusal:
    return Refusal(404, "unknown_route", "There is no such route here.")


def bad_key() -> Refusal:
    return Refusal(
        401, "invalid_api_key", "The API key is missing, wrong, revoked or expired. Ask the operator for one."
    )


def unknown_model() -> Refusal:
    return Refusal(
        404,
        "model_not_found",
        "There is no such model, or this key may not use it. GET /v1/models lists what it may use.",
        param="model",
    )


def engine_stopped() -> Refusal:
    return Refusal(503, "engine_unavailable", "The model's engine is not running. Try again later.")


def engine_failed() -> Refusal:
    return Refusal(502, "engine_failed", "The model's engine failed on this request.")


def engine_slow() -> Refusal:
    return Refusal(504, "engine_timeout", "The model's engine did not answer in time.")


def ledger_failed() -> Refusal:
    return Refusal(
        503, "ledger_unavailable", "The request cannot be recorded, so it is not answered. Try again later."
    )


def sink_dead() -> Refusal:
    return Refusal(
        503,
        "audit_sink_dead",
        "A required audit sink is down, so no request is answered. Try again when it is back.",
    )


def not_ready() -> Refusal:
    return Refusal(503, "gateway_locked", "The appliance is locked or starting. Try again later.")


def stale() -> Refusal:
    return Refusal(
        503, "gateway_stale", "The gateway has lost touch with its authority. Try again when it is back."
    )


def overloaded() -> Refusal:
    return Refusal(503, "overloaded", "Too many requests are in progress. Try again shortly.")
