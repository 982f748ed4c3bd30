from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import wait_until

from fqlstream.local.processes import Child, ChildSpec, ProcessError, Supervisor

PARENT = """
import signal, sys, threading
from pathlib import Path
from fqlstream.local.processes import Child, ChildSpec

def start():
    child = Child(ChildSpec("child", tuple(sys.argv[2:]), Path(sys.argv[1]), lambda: True, orphan_timeout_s=0.5))
    child.start()
    print(child.pid, flush=True)

# a thread that ends: the child is tied to the process all the same
thread = threading.Thread(target=start)
thread.start()
thread.join()
signal.pause()
"""
#: Programs that live until a signal ends them.
IDLE = "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def spec(tmp_path: Path, code: str, *, ready: Callable[[], bool] = lambda: True, **rest: Any) -> ChildSpec:
    return ChildSpec("child", python(code), tmp_path / "logs" / "child.log", ready, **rest)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def children() -> Iterator[list[Child]]:
    started: list[Child] = []
    yield started
    for child in started:
        child.stop(0.2)


def test_a_child_is_the_command_itself_and_its_words_are_in_the_log(tmp_path: Path, children: list[Child]) -> None:
    log = tmp_path / "logs" / "child.log"
    child = Child(spec(tmp_path, f"import os; print(os.getpid(), flush=True); {IDLE}"))
    children.append(child)
    child.start()
    wait_until(lambda: str(child.pid) in log.read_text(), "the child's words")
    assert child.tail() == [str(child.pid)]
    child.stop()
    assert (child.pid, child.exit_code) == (None, -signal.SIGTERM)


def test_what_is_to_be_chosen_is_chosen_at_each_start(tmp_path: Path, children: list[Child]) -> None:
    ports = iter(["15001", "15002"])
    log = tmp_path / "logs" / "child.log"
    child = Child(spec(tmp_path, "import os; print(os.environ['PORT'])", choose=lambda: {"PORT": next(ports)}))
    children.append(child)
    for port in ("15001", "15002"):
        child.start()
        wait_until(lambda port=port: port in log.read_text(), "the port that it was given")
        child.stop()


def test_waiting_ends_when_it_is_ready(tmp_path: Path, children: list[Child]) -> None:
    mark = tmp_path / "ready"
    child = Child(spec(tmp_path, f"open({str(mark)!r}, 'w'); {IDLE}", ready=mark.exists))
    children.append(child)
    child.start()
    child.wait_ready()
    assert child.pid is not None


def test_a_child_that_dies_while_starting_tells_its_last_words(tmp_path: Path) -> None:
    for word in ("first", "second"):
        child = Child(spec(tmp_path, f"print('the disk is full: {word}'); raise SystemExit(7)", ready=lambda: False))
        child.start()
        with pytest.raises(ProcessError, match="child ended with code 7") as caught:
            child.wait_ready()
        assert f"| the disk is full: {word}" in caught.value.message
    assert "first" not in caught.value.message, "what it said at an earlier start is no reason"


def test_a_child_that_is_never_ready_is_a_failure(tmp_path: Path, children: list[Child]) -> None:
    child = Child(spec(tmp_path, IDLE, ready=lambda: False, start_timeout_s=0.2))
    children.append(child)
    child.start()
    with pytest.raises(ProcessError, match="not ready after 0 s"):
        child.wait_ready()


def test_a_child_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    child = Child(spec(tmp_path, STUBBORN, stop_timeout_s=0.2))
    child.start()
    wait_until(lambda: "deaf" in (tmp_path / "logs" / "child.log").read_text(), "a child that hears no signal")
    child.stop()
    assert child.exit_code == -signal.SIGKILL


@pytest.mark.parametrize("code", [IDLE, STUBBORN])
def test_children_end_with_their_parent_even_when_it_is_killed(tmp_path: Path, code: str) -> None:
    log = tmp_path / "child.log"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(log), *python(code)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        # the launcher has become the command; until then there is nothing to be tested
        wait_until(lambda: "-c" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:2], "the command")
        if code == STUBBORN:
            wait_until(lambda: "deaf" in log.read_text(), "a child that hears no signal")
        assert runs(pid)
        parent.kill()
    wait_until(lambda: not runs(pid), "the child to end with its parent", 10)
    # nor does the watcher stay behind
    wait_until(lambda: not mentioning(str(log)), "the watcher to end", 5, saw=lambda: mentioning(str(log)))


def mentioning(text: str) -> list[Path]:
    """Name the processes whose command line holds a text."""

    def holds(path: Path) -> bool:
        try:
            return text in path.read_text()
        except OSError:
            return False

    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if holds(path)]


def test_a_child_that_dies_is_started_again_and_told(tmp_path: Path, children: list[Child]) -> None:
    said: list[str] = []
    changes: list[int | None] = []
    child = Child(spec(tmp_path, IDLE))
    children.append(child)
    supervisor = Supervisor(
        log_bytes_max=1_000_000, say=said.append, changed=lambda: changes.append(supervisor.pid("child"))
    )
    child.start()
    supervisor.adopt(child)
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)

    def again() -> bool:
        supervisor.tick()
        return any("runs again" in text for text in said)

    wait_until(again, "the child's restart", saw=lambda: said)
    assert supervisor.pid("child") not in (None, first)
    assert "SIGKILL" in said[0]
    assert changes == [None, supervisor.pid("child")]
    supervisor.stop([["child"]], 5.0)
    assert child.pid is None


def test_a_child_that_keeps_dying_is_started_less_and_less(tmp_path: Path, children: list[Child]) -> None:
    said: list[str] = []
    child = Child(spec(tmp_path, "print('broken'); raise SystemExit(3)", ready=lambda: False))
    children.append(child)
    supervisor = Supervisor(log_bytes_max=1_000_000, say=said.append, changed=lambda: None)
    child.start()
    supervisor.adopt(child)

    def thrice() -> bool:
        supervisor.tick()
        return sum("ended (exit code 3)" in text for text in said) >= 3

    wait_until(thrice, "three deaths", saw=lambda: said)
    waits = [text.rpartition(" in ")[2] for text in said if "ended" in text]
    assert waits[:3] == ["0 s", "1 s", "2 s"]
    assert "  | broken" in said


def test_groups_are_stopped_one_after_the_other(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys, time\n"  # each takes a while to end: were they not waited for, the order would be chance
        f"def end(*_):\n    time.sleep(0.1)\n    open({str(order)!r}, 'a').write(sys.argv[1] + '\\n')\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\nsignal.pause()"
    )
    supervisor = Supervisor(log_bytes_max=1_000_000, say=lambda _: None, changed=lambda: None)

    def start(name: str) -> None:
        log = tmp_path / f"{name}.log"
        child = Child(ChildSpec(name, (*python(code), name), log, lambda: "up" in log.read_text()))
        child.start()
        child.wait_ready()
        supervisor.adopt(child)

    for name in ("broker", "store", "worker"):
        start(name)
    supervisor.stop([["worker"], ["store"], ["broker"]], 10.0)
    assert order.read_text().split() == ["worker", "store", "broker"]


def test_logs_are_bounded_while_the_child_goes_on_writing(tmp_path: Path, children: list[Child]) -> None:
    # at its own pace: the log is turned while the child writes, and the disk is not filled meanwhile
    code = "import time\nn = 0\nwhile True:\n    print('line', n, 'x' * 1000, flush=True)\n    n += 1\n    time.sleep(0.001)"
    child = Child(spec(tmp_path, code))
    children.append(child)
    supervisor = Supervisor(log_bytes_max=50_000, say=lambda _: None, changed=lambda: None)
    child.start()
    supervisor.adopt(child)
    log, older = tmp_path / "logs" / "child.log", tmp_path / "logs" / "child.1.log"

    def turned() -> bool:
        supervisor.tick()
        return older.exists() and log.stat().st_size > 1_000

    wait_until(turned, "a log that was turned")
    assert older.stat().st_size > 50_000
    assert log.read_bytes()[:4] != b"\0\0\0\0", "the child appends: no hole where the old text was"
