"""Runs attempts in sandboxes and looks what became of their surroundings; as a program it prints JSON, as whoever starts it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.escapes.attempts import ATTEMPTS, CONTROLS, ESCAPED, SPARK_CONTROLS, Attempt
from tests.waiting import pause, wait_until

from fqlstream.code_metrics import failures
from fqlstream.code_metrics.pool import Pool
from fqlstream.code_metrics.process import descendants
from fqlstream.code_metrics.request import Frame, FrameOutcome, Job, Outcome
from fqlstream.settings import CodeMetricsSettings

#: An environment variable of the process that runs the sandboxes, with the token in it.
VARIABLE = "FQLSTREAM_ESCAPE_TOKEN"
#: A service that is kept from running for so long would be noticed by everybody.
PAUSE_S_MAX = 5.0

#: What is ended is gone so soon, also on a machine that has much to do.
LEFT_S = 10.0
#: A sandbox that a hundred attempts share gets so long, most of it for those that wait for an answer from nowhere.
SHARED_WALL_S = 300.0
#: As root: users that no other sandbox of this machine runs as, so that what is left running can be told.
UID_FIRST = 1_950_000_000 + os.getpid() * 1_024 % 150_000_000
#: Bounds small enough that running into them is quick, also on a machine with much else to do, where no other bound shall be met
#: later than the clock's; Spark's Java needs more of each.
SMALL = {
    "wall_s": 9.0,
    "memory_mib_max": 1_024,
    "heap_mib": 512,
    "disk_mib_max": 64,
    "processes_max": 96,
    "output_bytes_max": 2**18,
    "check_wait_s": 60.0,
}
SPARK_SMALL = {
    "wall_s": 20.0,
    "memory_mib_max": 2_048,
    "heap_mib": 768,
    "disk_mib_max": 128,
    "processes_max": 384,
    "output_bytes_max": 2**18,
    "check_wait_s": 60.0,
}

#: What attempts and controls compute on.
ROWS: dict[str, list[Any]] = {
    "age": [1, 2, 3, None, 50],
    "score": [0.1, 0.2, 0.3, 0.4, 0.5],
    "country": ["a", "b", None, "d", "e"],
}

#: What the static check refuses code with.
_CHECKED = frozenset({failures.SYNTAX, failures.IMPORT, failures.FORBIDDEN, failures.ENTRY_POINT})
#: How a whole run ends whose code was run; any other end came before it.
_RUN = failures.REPORTED | {failures.TIME, failures.OUTPUT, failures.DIED, failures.PROTOCOL, failures.MACHINE}
#: What is told of one run is never longer: nobody reads more, and a flood is a way to hurt.
WORDS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Result:
    """What one attempt came to: `complaints` is empty where everything held."""

    kind: str
    name: str
    complaints: tuple[str, ...]
    code: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Ending:
    """How the run of an attempt ended, as whoever asked for it is told. `words` is everything they were told.

    `is_whole`: the run itself failed, by `code`; else its code was called, and gave `value` or failed by `code`.
    """

    value: float | None
    code: str | None
    is_whole: bool
    words: str


@dataclass(slots=True)
class Surroundings:
    """What lies outside the sandboxes, where it can be found, and how it must look afterwards."""

    token: str
    directory: Path
    port: int
    name: str
    victim: subprocess.Popen[bytes]
    met: list[str] = field(default_factory=list)
    longest_pause_s: float = 0.0

    @property
    def secret(self) -> Path:
        """A file that anybody may read."""
        return self.directory / "secret"

    @property
    def open_directory(self) -> Path:
        """A directory that anybody may write in."""
        return self.directory / "open"

    def fill(self, code: str) -> str:
        """Put the places into an attempt's code."""
        for mark, value in (
            ("$SECRET", self.secret),
            ("$OPEN", self.open_directory),
            ("$PORT", self.port),
            ("$NAME", self.name),
            ("$VICTIM", self.victim.pid),
        ):
            code = code.replace(mark, str(value))
        return code

    def complaints(self) -> list[str]:
        """Say what has changed that must not change, and put it right again."""
        found = []
        if self.secret.read_text() != self.token:
            found.append("the secret was changed")
        for path in self.open_directory.iterdir():
            found.append(f"{path.name} was written")
            path.unlink()
        if self.victim.poll() is not None:
            found.append("the victim was ended")
        found += [f"{listener} was reached" for listener in self.met]
        self.met.clear()
        if self.longest_pause_s > PAUSE_S_MAX:
            found.append(f"nothing else ran for {self.longest_pause_s:.1f} s")
        self.longest_pause_s = 0.0
        return found


@contextlib.contextmanager
def surroundings() -> Iterator[Surroundings]:
    """Lay out what attempts are after: a file, an open directory, listeners, a process, an environment variable."""
    token = secrets.token_hex(16)
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as directory,
        listener(socket.create_server(("127.0.0.1", 0))) as loopback,
        listener(socket.socket(socket.AF_UNIX)) as abstract,
        process(["sleep", "3600"]) as victim,
    ):
        # not with the token in it: the attempt's own lines are told to its author
        name = f"fqlstream-escape-{secrets.token_hex(8)}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        outside = Surroundings(token, Path(directory), loopback.getsockname()[1], name, victim)
        outside.secret.write_text(token)
        outside.open_directory.mkdir()
        for path, mode in ((outside.directory, 0o755), (outside.secret, 0o644), (outside.open_directory, 0o777)):
            path.chmod(mode)
        os.environ[VARIABLE] = token
        for server, what in ((loopback, "the listener on loopback"), (abstract, "the abstract socket")):
            threading.Thread(target=_answer, args=(server, what, outside), daemon=True).start()
        threading.Thread(target=_feel, args=(outside,), daemon=True).start()
        try:
            yield outside
        finally:
            del os.environ[VARIABLE]


@contextlib.contextmanager
def listener(server: socket.socket) -> Iterator[socket.socket]:
    """Close a socket at the end, and let go of it whoever waits in `accept`: only closed, its address would stay taken."""
    with server:
        try:
            yield server
        finally:
            with contextlib.suppress(OSError):  # it does not listen yet
                server.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the end."""
    with subprocess.Popen(command) as running:
        try:
            yield running
        finally:
            running.kill()


def _answer(server: socket.socket, what: str, outside: Surroundings) -> None:
    with contextlib.suppress(OSError):  # closed at the end
        while True:
            client, _ = server.accept()
            outside.met.append(what)
            client.sendall(outside.token.encode())
            client.close()


def _feel(outside: Surroundings) -> None:
    while outside.victim.poll() is None:
        began = time.monotonic()
        pause(0.05)
        outside.longest_pause_s = max(outside.longest_pause_s, time.monotonic() - began)


def rows_file(directory: Path, frames: int) -> Path:
    """Write the suite's rows, with one column per frame that lets every row in."""
    path = directory / f"rows-{frames}.parquet"
    pq.write_table(pa.table(ROWS | {f"_f{number}": [True] * 5 for number in range(frames)}), path)
    return path


def try_alone(pool: Pool, attempt: Attempt, outside: Surroundings) -> Result:
    """Run one attempt in a sandbox of its own."""
    began = time.monotonic()
    outcome = pool.run(Job(outside.fill(attempt.code), (rows_file(outside.directory, 0),)))
    seconds = time.monotonic() - began
    frame = outcome.frames[0] if outcome.frames else None
    return judged(attempt, _ending(outcome, frame), outside, strays, seconds)


def try_together(pool: Pool, attempts: Sequence[Attempt], outside: Surroundings) -> list[Result]:
    """Run attempts one after the other in one sandbox, each as a frame of one job."""
    outcome = _together(pool, [attempt.code for attempt in attempts], outside)
    given = {frame.name: frame for frame in outcome.frames}
    return [
        judged(
            attempt,
            _ending(outcome, given.get(str(number))),
            outside,
            strays,
            given[str(number)].seconds if str(number) in given else 0.0,
        )
        for number, attempt in enumerate(attempts)
    ]


def _together(pool: Pool, codes: Sequence[str], outside: Surroundings) -> Outcome:
    """Run a job whose frames are different codes, one frame each."""
    sources = [outside.fill(code) for code in codes]
    code = (
        f"SOURCES = {json.dumps(sources)}\nTURN = iter(SOURCES)\n\n"
        "def calc_metric(df):\n    names = {'__name__': '__main__'}\n    exec(next(TURN), names)\n    return names['calc_metric'](df)\n"
    )
    frames = tuple(Frame(str(number), f"_f{number}") for number in range(len(codes)))
    limits = replace(pool.limits, wall_s=SHARED_WALL_S)
    return pool.run(Job(code, (rows_file(outside.directory, len(codes)),), frames, limits=limits))


def try_controls_together(pool: Pool, controls: dict[str, tuple[str, float]], outside: Surroundings) -> list[Result]:
    """Run ordinary code, one after the other in one sandbox."""
    outcome = _together(pool, [code for code, _ in controls.values()], outside)
    values = {frame.name: frame.value for frame in outcome.frames}
    return [
        control_result(name, values.get(str(number)), expected, outcome, 0.0)
        for number, (name, (_, expected)) in enumerate(controls.items())
    ]


def try_controls(pool: Pool, controls: dict[str, tuple[str, float]], outside: Surroundings) -> list[Result]:
    """Run ordinary code, which must give its value."""
    path = rows_file(outside.directory, 0)
    results = []
    for name, (code, expected) in controls.items():
        began = time.monotonic()
        outcome = pool.run(Job(code, (path,)))
        value = outcome.frames[0].value if outcome.frames else None
        results.append(control_result(name, value, expected, outcome, time.monotonic() - began))
    return results


def control_result(name: str, value: float | None, expected: float, told: object, seconds: float) -> Result:
    """Say what came of ordinary code, which must give its value; `told` is all that was told of it."""
    right = value is not None and abs(value - expected) < 1e-9
    return Result("controls", name, () if right else (f"gave {told}, not {expected}",), None, seconds)


def _ending(outcome: Outcome, frame: FrameOutcome | None) -> Ending:
    failure = outcome.failure or (frame.failure if frame is not None else None)
    return Ending(
        frame.value if frame is not None else None,
        failure.code if failure is not None else None,
        frame is None,
        f"{frame} {outcome.failure}",
    )


def judged(
    attempt: Attempt, ending: Ending, outside: Surroundings, left: Callable[[], list[str]], seconds: float
) -> Result:
    """Say what did not hold in an attempt that has ended; `left` gives what of it still runs."""
    complaints = outside.complaints()
    if ending.value == ESCAPED:
        complaints.append("it says that it is out")
    refused = ending.is_whole and ending.code in _CHECKED
    ended_all = attempt.alone and ending.code in _RUN
    if ending.is_whole and not refused and not ended_all:
        complaints.append(f"it was never tried: {ending.words[:2_000]}")
    if outside.token in ending.words:
        complaints.append("the token came out")
    if len(ending.words) > WORDS_MAX:
        complaints.append("its answer is a flood")
    if attempt.ends and not refused and ending.code not in attempt.ends:
        complaints.append(f"it ended with {ending.code} ({ending.words[:2_000]}), not with one of {attempt.ends}")
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not left(), "nothing of it is left", LEFT_S, look_s=0.2)
    complaints += [f"left running: {each}" for each in left()]
    return Result(attempt.kind, attempt.name, tuple(complaints), ending.code, seconds)


def strays() -> list[str]:
    """Processes of sandboxes that still run while none should."""
    return [process for held in sandboxes(os.getpid()).values() for process in held]


def sandboxes(root: int) -> dict[str, list[str]]:
    """Give the sandboxes that run, by their namespace of processes: the command line of each process in it.

    They are what comes from `root` and is in another namespace; the kernel lets none of a namespace outlive its first process,
    which comes from there. As root those of the sandboxes' own users as well, wherever they come from.
    """
    own = Path("/proc/self/ns/pid").readlink()
    ours = set(descendants(root))
    found: dict[str, list[str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            held = os.getuid() == 0 and UID_FIRST <= process.stat().st_uid < UID_FIRST + 1_024
            if not held and int(process.name) not in ours:
                continue
            space = (process / "ns/pid").readlink()
            if held or space != own:
                command = (process / "cmdline").read_text(errors="replace").replace("\0", " ")
                found.setdefault(str(space), []).append(command[:200])
    return found


def run(
    engine: str, attempts: Sequence[Attempt], *, together: bool, static_check: bool, controls: bool
) -> list[Result]:
    """Run attempts that fit the engine, then controls, each in its sandbox; `together`: those that can share one share one."""
    limits = SPARK_SMALL if engine == "spark" else SMALL
    settings = CodeMetricsSettings(engine=engine, static_check=static_check, uid_first=UID_FIRST, warm=0, **limits)
    fitting = [attempt for attempt in attempts if attempt.engine in {None, engine}]
    shared = [attempt for attempt in fitting if together and not attempt.alone]
    pool = Pool(settings)
    try:
        with surroundings() as outside:
            results = try_together(pool, shared, outside) if shared else []
            for attempt in fitting:
                if attempt not in shared:
                    results.append(try_alone(pool, attempt, outside))
                    sys.stderr.write(f"{results[-1]}\n")
            if controls:
                ordinary = CONTROLS | (SPARK_CONTROLS if engine == "spark" else {})
                results += (try_controls_together if together and not static_check else try_controls)(
                    pool, ordinary, outside
                )
    finally:
        pool.close()
    return results


def main() -> None:
    """Run the suite and print one JSON object: who ran it, which layers held, and every result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="spark")
    parser.add_argument("--kind", action="append", help="only attempts of this class")
    parser.add_argument("--one-per-class", action="store_true")
    parser.add_argument(
        "--alone-one-per-class",
        action="store_true",
        help="of attempts that need a sandbox of their own, the first of each class",
    )
    parser.add_argument("--together", action="store_true", help="attempts that can share a sandbox share one")
    parser.add_argument("--static-check", action="store_true")
    chosen = parser.parse_args()
    attempts = one_per_class() if chosen.one_per_class else list(ATTEMPTS)
    attempts = [attempt for attempt in attempts if not chosen.kind or attempt.kind in chosen.kind]
    if chosen.alone_one_per_class:
        first = {attempt.kind: attempt for attempt in reversed(attempts) if attempt.alone}
        attempts = [attempt for attempt in attempts if not attempt.alone or attempt is first[attempt.kind]]
    pool = Pool(CodeMetricsSettings(warm=0))
    layers = {layer.name: layer.active for layer in pool.layers()}
    pool.close()
    results = run(chosen.engine, attempts, together=chosen.together, static_check=chosen.static_check, controls=True)
    answer = {"uid": os.getuid(), "layers": layers, "results": [asdict(result) for result in results]}
    sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    sys.exit(1 if any(result.complaints for result in results) else 0)


def results_of(answer: Mapping[str, Any]) -> list[Result]:
    """Read the results that a program of this suite has printed."""
    return [Result(**{**row, "complaints": tuple(row["complaints"])}) for row in answer["results"]]


def assert_held(results: Sequence[Result]) -> None:
    """Assert that something was tried and that nothing got out."""
    assert results
    failed = [result for result in results if result.complaints]
    assert not failed, "\n".join(map(str, failed))


def one_per_class() -> list[Attempt]:
    """The first attempt of each class."""
    return list({attempt.kind: attempt for attempt in reversed(ATTEMPTS)}.values())


if __name__ == "__main__":
    main()
