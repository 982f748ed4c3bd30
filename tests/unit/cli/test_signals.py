"""The first signal ends a command in order; what follows waits for that end."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from fqlstream.cli.signals import Stopped, stop_signals

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_where_the_command_is_and_nothing_takes_it_for_a_failure(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    def careless_work() -> None:
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), number)

    with pytest.raises(Stopped) as caught, stop_signals():
        careless_work()
    assert caught.value.number == number
    assert capsys.readouterr().err == "stopping\n"


def test_further_signals_do_not_disturb_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[bool] = []

    def work_that_ends_in_order() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            for number in SIGNALS:
                os.kill(os.getpid(), number)
            ended.append(True)

    with pytest.raises(Stopped) as caught, stop_signals():
        work_that_ends_in_order()
    assert ended == [True]
    assert caught.value.number == signal.SIGTERM
    assert capsys.readouterr().err == "stopping\n"


def test_signals_are_handled_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_signals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(ValueError, match="the command's own"), stop_signals():
        raise ValueError("the command's own failure")
    assert [signal.getsignal(number) for number in SIGNALS] == before
