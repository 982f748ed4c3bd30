"""ClickHouse's errors as its HTTP interface tells them: a code, a text, a status."""

from __future__ import annotations

import re

_CODE = re.compile(r"Code: (\d+)\.")
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]+)\)")

ACCESS_DENIED = 497
AUTHENTICATION_FAILED = 516
BAD_ARGUMENTS = 36
CANNOT_PARSE_TEXT = 6
CHECKSUM_DOESNT_MATCH = 40
INTO_OUTFILE_NOT_ALLOWED = 81
NOT_IMPLEMENTED = 48
READONLY = 164
REQUEST_TOO_LARGE = 307
SESSION_IS_LOCKED = 373
STD_EXCEPTION = 1001
SYNTAX_ERROR = 62
UNKNOWN_SETTING = 115
UNKNOWN_STATUS_OF_INSERT = 319

_NAMES = {
    ACCESS_DENIED: "ACCESS_DENIED",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
    BAD_ARGUMENTS: "BAD_ARGUMENTS",
    CANNOT_PARSE_TEXT: "CANNOT_PARSE_TEXT",
    CHECKSUM_DOESNT_MATCH: "CHECKSUM_DOESNT_MATCH",
    INTO_OUTFILE_NOT_ALLOWED: "INTO_OUTFILE_NOT_ALLOWED",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    READONLY: "READONLY",
    REQUEST_TOO_LARGE: "TOO_MANY_BYTES",
    SESSION_IS_LOCKED: "SESSION_IS_LOCKED",
    STD_EXCEPTION: "STD_EXCEPTION",
    SYNTAX_ERROR: "SYNTAX_ERROR",
    UNKNOWN_SETTING: "UNKNOWN_SETTING",
    UNKNOWN_STATUS_OF_INSERT: "UNKNOWN_STATUS_OF_INSERT",
}

#: The statuses that ClickHouse's server gives its errors; everything else is 500.
_STATUS_NAMES = {
    401: ("REQUIRED_PASSWORD",),
    403: ("UNKNOWN_USER", "WRONG_PASSWORD", "AUTHENTICATION_FAILED", "SET_NON_GRANTED_ROLE", "ACCESS_DENIED"),
    400: (
        "BAD_ARGUMENTS", "CANNOT_COMPILE_REGEXP", "CANNOT_PARSE_TEXT", "CANNOT_PARSE_ESCAPE_SEQUENCE", "CANNOT_PARSE_QUOTED_STRING",
        "CANNOT_PARSE_DATE", "CANNOT_PARSE_DATETIME", "CANNOT_PARSE_NUMBER", "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING", "CANNOT_PARSE_IPV4",
        "CANNOT_PARSE_IPV6", "CANNOT_PARSE_INPUT_ASSERTION_FAILED", "CANNOT_PARSE_UUID", "DUPLICATE_COLUMN", "ILLEGAL_COLUMN",
        "UNKNOWN_ELEMENT_IN_AST", "UNKNOWN_TYPE_OF_AST_NODE", "THERE_IS_NO_COLUMN", "TOO_DEEP_AST", "TOO_BIG_AST",
        "UNEXPECTED_AST_STRUCTURE", "SYNTAX_ERROR", "INCORRECT_DATA", "TYPE_MISMATCH", "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
    ),
    404: (
        "UNKNOWN_TABLE", "UNKNOWN_FUNCTION", "UNKNOWN_IDENTIFIER", "UNKNOWN_TYPE", "UNKNOWN_STORAGE", "UNKNOWN_DATABASE", "UNKNOWN_SETTING",
        "UNKNOWN_DIRECTION_OF_SORTING", "UNKNOWN_AGGREGATE_FUNCTION", "UNKNOWN_FORMAT", "UNKNOWN_DATABASE_ENGINE", "UNKNOWN_TYPE_OF_QUERY",
        "UNKNOWN_ROLE",
    ),
    408: ("TIMEOUT_EXCEEDED",),
    411: ("HTTP_LENGTH_REQUIRED",),
    413: ("QUERY_IS_TOO_LARGE", "TOO_MANY_BYTES"),
    415: ("UNSUPPORTED_MEDIA_TYPE",),
    501: ("NOT_IMPLEMENTED",),
    503: ("SOCKET_TIMEOUT", "CANNOT_OPEN_FILE", "CANNOT_SCHEDULE_TASK"),
}  # fmt: skip
_STATUS = {name: status for status, names in _STATUS_NAMES.items() for name in names}


class EngineError(Exception):
    """A statement that failed: ClickHouse's code and its text, as its server would send them."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def status(self) -> int:
        """The HTTP status that ClickHouse's server answers with."""
        names = _NAME.findall(self.text)
        return _STATUS.get(names[-1], 500) if names else 500


def refusal(code: int, message: str) -> EngineError:
    """Make an error of our own in ClickHouse's form."""
    return EngineError(code, f"Code: {code}. DB::Exception: {message.rstrip('.')}. ({_NAMES[code]})")


def engine_error(error: BaseException) -> EngineError:
    """Read the engine's exception: chDB gives ClickHouse's text, sometimes with words of its own before it."""
    text = str(error).strip()
    found = _CODE.search(text)
    if found is None:
        return refusal(STD_EXCEPTION, text or type(error).__name__)
    return EngineError(int(found[1]), text[found.start() :])
