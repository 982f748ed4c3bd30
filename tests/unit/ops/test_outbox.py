"""What becomes of records when librdkafka ends a producer: it tells so by raising out of what asks it, and needs no broker for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.fatal_error import raise_fatal_error
from tests.waiting import WAIT_S, wait_in_loop

from fqlstream.errors import BrokerError
from fqlstream.ops.outbox import OutboxProducer, _Running
from fqlstream.settings import KafkaSettings

AWAY = KafkaSettings(bootstrap="127.0.0.1:1", leave_wait_ms=100)


def run(renews: bool, body: Callable[[OutboxProducer, _Running], Awaitable[None]]) -> None:
    async def main() -> None:
        async with OutboxProducer(AWAY, renews=renews) as outbox:
            before = outbox._running
            assert before is not None
            await asyncio.wait_for(body(outbox, before), WAIT_S)

    asyncio.run(main())


def test_a_producer_that_is_renewed_goes_on_after_a_fatal_error_and_after_the_next() -> None:
    async def body(outbox: OutboxProducer, before: _Running) -> None:
        for value in (b"first", b"second"):
            running = outbox._running
            assert running is not None
            held = await outbox.send("t", value)
            raise_fatal_error(running.producer)
            with pytest.raises(BrokerError) as failed:
                await held
            assert (failed.value.code, failed.value.retryable) == ("KFK110", True)
            assert outbox._running is not running
            await wait_in_loop(lambda: not outbox._ending, "the old one has ended")
            assert not running.poller.is_alive()
        assert outbox._running is not None
        assert outbox._running.poller.is_alive()
        waiting = await outbox.send("t", b"later")
        assert not waiting.done()

    run(True, body)


def test_a_producer_that_is_not_renewed_fails_what_it_had_and_refuses_the_rest() -> None:
    async def body(outbox: OutboxProducer, before: _Running) -> None:
        held = await outbox.send("t", b"held")
        raise_fatal_error(before.producer)
        with pytest.raises(BrokerError, match="not delivered") as failed:
            await outbox.flush()
        assert (failed.value.code, failed.value.retryable) == ("KFK110", False)
        assert held.done()
        assert outbox._running is before
        assert before.poller.is_alive(), "records that are on their way are still told of"
        with pytest.raises(BrokerError) as refused:
            await outbox.send("t", b"later")
        assert (refused.value.code, refused.value.retryable) == ("KFK111", False)
        assert "start the process anew" in str(refused.value.hint)

    run(False, body)


@pytest.mark.parametrize("renews", [True, False])
def test_stopping_after_a_fatal_error_that_nobody_has_seen_yet_raises_nothing(renews: bool) -> None:
    async def body(outbox: OutboxProducer, before: _Running) -> None:
        await outbox.send("t", b"held")
        before.over.set()
        await asyncio.to_thread(before.poller.join)
        raise_fatal_error(before.producer)
        await outbox.stop()

    run(renews, body)
