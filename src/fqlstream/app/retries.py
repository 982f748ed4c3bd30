"""Trouble at the store is waited out: the same call again, later and later, until it works or nobody wants it any more."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import TypeVar

from fqlstream.errors import StoreError

T = TypeVar("T")

log = logging.getLogger("fqlstream.store")

_FIRST_WAIT_S = 0.1
#: Longer waits would only delay the recovery; shorter ones would hammer a store that is down.
_WAIT_MAX_S = 5.0


async def patiently(what: str, call: Callable[[], T]) -> T:
    """Run a blocking store call in a thread, again and again while the failure may pass.

    Raises StoreError at once where trying again cannot help. Cancelling ends the waiting.
    """
    wait_s = _FIRST_WAIT_S
    failures_count = 0
    while True:
        try:
            result = await asyncio.to_thread(call)
        except StoreError as error:
            if not error.retryable:
                raise
            failures_count += 1
            level = logging.WARNING if failures_count in (1, 2, 4, 8) or failures_count % 16 == 0 else logging.DEBUG
            log.log(level, "%s: %s; trying again in %.1f s (failure %d)", what, error.message, wait_s, failures_count)
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret
            wait_s = min(2 * wait_s, _WAIT_MAX_S)
            continue
        if failures_count:
            log.warning("%s: works again after %d failures", what, failures_count)
        return result
