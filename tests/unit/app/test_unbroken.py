from __future__ import annotations

import asyncio

import pytest
from tests.waiting import let_others_run

from fqlstream.app.unbroken import Unbroken


def test_cancelling_who_waits_leaves_the_work_running_and_its_failure_is_reported() -> None:
    async def main() -> tuple[list[str], list[BaseException]]:
        done: list[str] = []
        failures: list[BaseException] = []
        go = asyncio.Event()
        unbroken = Unbroken(failures.append)

        async def work(name: str, error: Exception | None) -> None:
            await go.wait()
            done.append(name)
            if error is not None:
                raise error

        waiting = [
            asyncio.create_task(unbroken.await_to_its_end(work("fine", None))),
            asyncio.create_task(unbroken.await_to_its_end(work("bad", ValueError("no")))),
        ]
        await let_others_run()
        for task in waiting:
            task.cancel()
        await let_others_run()
        unbroken.start(work("alone", KeyError("also")))
        go.set()
        await let_others_run()
        return done, failures

    done, failures = asyncio.run(main())
    assert sorted(done) == ["alone", "bad", "fine"]
    assert {type(error) for error in failures} == {ValueError, KeyError}


def test_who_still_waits_is_told_himself() -> None:
    async def main() -> list[BaseException]:
        failures: list[BaseException] = []

        async def work() -> None:
            message = "no"
            raise ValueError(message)

        with pytest.raises(ValueError, match="no"):
            await Unbroken(failures.append).await_to_its_end(work())
        await let_others_run()
        return failures

    assert asyncio.run(main()) == []
