"""Starts sandboxes and ends them: what must hold before one is started, where each lives, and as whom it runs."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fqlstream.code_metrics import cgroups, java, layers, sandbox, supervisor
from fqlstream.code_metrics.process import SandboxProcess
from fqlstream.code_metrics.relay import Relay
from fqlstream.code_metrics.request import CodeMetricsRefusedError, Engine, Limits
from fqlstream.code_metrics.sandbox import Slot
from fqlstream.settings import CodeMetricsSettings

#: What each engine is imported from, and which extra of ours brings it.
_NEEDS: Final[Mapping[Engine, tuple[str, str]]] = {
    "spark": ("pyspark", "spark"),
    "spark_remote": ("grpc", "spark"),
    "sqlframe": ("sqlframe", "sqlframe"),
}

_SLOTS_MAX: Final = 1_024  # users that this machine's sandboxes may run as, from uid_first on; no machine holds so many


@dataclass(frozen=True, slots=True)
class Kind:
    """What a sandbox is started for; only a job of the same kind may have it."""

    engine: Engine
    limits: Limits


@dataclass(frozen=True, slots=True)
class Started:
    """A sandbox that waits for its one job."""

    kind: Kind
    slot: Slot
    process: SandboxProcess
    relay: Relay | None


class Launcher:
    """Starts sandboxes in `directory`, which is ours alone. Every method may be called from any thread.

    No sandbox may see a directory of `private`; `stopped` says that nothing is waited for any more.
    """

    def __init__(
        self, settings: CodeMetricsSettings, directory: Path, private: Sequence[Path], stopped: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._private = (directory, *private)
        self._stopped = stopped
        self._lock = threading.Lock()
        self._probing = threading.Lock()
        self._probed: layers.Probed | None = None
        self._probed_s = 0.0
        self._numbers = itertools.count()  # a group that could not be removed is never used again
        self._slots: dict[int, socket.socket | None] = {}
        self._parents = cgroups.find_parents(settings.cgroup)
        cgroups.sweep(self._parents)
        # The kernel ends a sandbox with the thread that started it, so one thread starts them all and stays.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="sandboxes")

    def probe(self, limits: Limits) -> layers.Probed:
        """Find out which layers hold here: once where all is well, else again after a while. Raises CodeMetricsRefusedError."""
        with self._probing:
            if self._probed is None or (
                self._probed.doubtful and time.monotonic() - self._probed_s >= self._settings.probe_again_s
            ):
                slot = self._take_slot()
                try:
                    self._probed = layers.probe(self._settings, slot, limits, self._parents, self._private)
                finally:
                    self._give_back(slot.index)
                self._probed_s = time.monotonic()
            return self._probed

    def require(self, kind: Kind) -> None:
        """Raise CodeMetricsRefusedError unless everything that must hold holds, and the engine can be had."""
        probed = self.probe(kind.limits)
        missing = probed.missing()
        unnamed = [name for name in missing if name not in self._settings.allow_missing_layers]
        if unnamed:
            details = "; ".join(f"{layer.name}: {layer.detail}" for layer in probed.layers if layer.name in unnamed)
            raise CodeMetricsRefusedError(
                "CBM101",
                f"metric code is not run here: the sandbox lacks {' and '.join(unnamed)} ({details})",
                "install bubblewrap and allow user namespaces, or name the layer in FQLSTREAM_CODE_METRICS__ALLOW_MISSING_LAYERS",
            )
        if missing and not self._settings.static_check:
            raise CodeMetricsRefusedError(
                "CBM102",
                f"the static check cannot be off while the sandbox lacks {' and '.join(missing)}",
                "remove FQLSTREAM_CODE_METRICS__STATIC_CHECK=false, or mend the layer",
            )
        module, extra = _NEEDS[kind.engine]
        if find_spec(module) is None:
            raise CodeMetricsRefusedError(
                "CBM103",
                f"the engine {kind.engine} needs the package {module}",
                f"pip install 'fqlstream[{extra}]', or set FQLSTREAM_CODE_METRICS__ENGINE",
            )
        if kind.engine == "spark":
            self._java()

    def start(self, kind: Kind) -> Started:
        """Start a sandbox and wait until it can take a job. Raises CodeMetricsRefusedError."""
        slot = self._take_slot()
        relay, process = None, None
        try:
            session = str(uuid.uuid4())
            if kind.engine == "spark_remote":
                relay = Relay(self._address(), slot.data / sandbox.SOCKET, slot.uid, session)
            process = self._process(kind, slot, session)
            self._wait(process, kind)
        except (OSError, RuntimeError) as error:  # RuntimeError: gRPC's for a socket, and an executor's that is closed
            self._end(slot, process, relay)
            raise CodeMetricsRefusedError("CBM105", f"no sandbox could be started: {error}") from error
        except BaseException:
            self._end(slot, process, relay)
            raise
        return Started(kind, slot, process, relay)

    def give(self, started: Started, path: Path, number: int) -> str:
        """Put a file of rows into a sandbox; give its path inside. Raises OSError."""
        return sandbox.give(self.probe(started.kind.limits).isolation, started.slot, path, number)

    def end(self, started: Started) -> None:
        """End everything in a sandbox and remove its files."""
        self._end(started.slot, started.process, started.relay)

    def close(self) -> None:
        """Stop starting; sandboxes that still run end now."""
        self._starter.shutdown(wait=True, cancel_futures=True)

    def _process(self, kind: Kind, slot: Slot, session: str) -> SandboxProcess:
        settings, isolation = self._settings, self.probe(kind.limits).isolation
        home = self._java() if kind.engine == "spark" else None
        options = {
            "cores": settings.cores,
            "heap_mib": settings.heap_mib,
            "socket": f"{sandbox.data_directory(isolation, slot)}/{sandbox.SOCKET}",
            "session": session,
        }
        # each core may be busy for as long as a run may take, and while Java starts
        cpu_s = int((settings.start_wait_s + kind.limits.wall_s) * max(settings.cores, os.cpu_count() or 1)) + 1

        def command(fds: Mapping[str, int], answers_fd: int) -> list[str]:
            orders = sandbox.orders(
                isolation, slot, kind.limits, home, cpu_s, engine=kind.engine, options=options, answers_fd=answers_fd
            )
            program = ("fqlstream.code_metrics.inside.work", orders)
            return sandbox.command(isolation, slot, kind.limits, home, program, fds)

        environment = sandbox.environment(isolation, slot, settings.cores, home)
        held = self._parents.memory is not None or self._parents.pids is not None
        group = (
            cgroups.make(self._parents, f"fqlstream-{os.getpid()}-{next(self._numbers)}", kind.limits) if held else None
        )
        contained = isolation.bwrap is not None
        return self._starter.submit(
            SandboxProcess, command, environment, group, contained=contained, filtered=isolation.filtered
        ).result()

    def _wait(self, process: SandboxProcess, kind: Kind) -> None:
        why_not = supervisor.wait_ready(process, self._settings.start_wait_s, self._stopped)
        if self._stopped():
            raise CodeMetricsRefusedError("CBM106", "no metric code is run any more: the service stops")
        if why_not is not None:
            raise CodeMetricsRefusedError("CBM105", f"the engine {kind.engine} did not start in its sandbox: {why_not}")

    def _java(self) -> Path:
        home, why_not = java.find_java(self._settings.java_home)
        if home is None:
            raise CodeMetricsRefusedError(
                "CBM104",
                f"Spark needs Java {' or '.join(map(str, java.SUPPORTED))}: {why_not}",
                "install it and set JAVA_HOME, or set FQLSTREAM_CODE_METRICS__ENGINE=sqlframe, which needs none and lacks a part of PySpark",
            )
        return home

    def _address(self) -> str:
        configured = self._settings.spark_remote
        address = configured.get_secret_value() if configured is not None else os.environ.get("SPARK_REMOTE")
        if not address:
            raise CodeMetricsRefusedError(
                "CBM107",
                "the engine spark_remote needs the address of a Spark Connect server",
                "set SPARK_REMOTE=sc://host:port",
            )
        return address

    def _take_slot(self) -> Slot:
        with self._lock:
            index, claim = self._free_place()
            self._slots[index] = claim
        uid = self._settings.uid_first + index if claim is not None else None
        try:
            return sandbox.make_slot(self._directory / f"slot-{index}", index, uid)
        except OSError as error:
            self._give_back(index)
            raise CodeMetricsRefusedError(
                "CBM105",
                f"no sandbox could be started: {error}",
                "see to the space of FQLSTREAM_RUNNER__DIRECTORY",
            ) from error

    def _free_place(self) -> tuple[int, socket.socket | None]:
        """Find a number that is free, and as root a user that no other sandbox of this machine runs as."""
        for index in range(_SLOTS_MAX):
            if index in self._slots:
                continue
            if os.getuid() != 0:
                return index, None
            claim = socket.socket(socket.AF_UNIX)
            try:
                # the kernel gives a name to one process at a time, and takes it back however that ends
                claim.bind(f"\0fqlstream-metric-user-{self._settings.uid_first + index}")
            except OSError:
                claim.close()
                continue
            return index, claim
        raise CodeMetricsRefusedError(
            "CBM105",
            f"{_SLOTS_MAX} sandboxes run on this machine already",
            "set another FQLSTREAM_CODE_METRICS__UID_FIRST",
        )

    def _give_back(self, index: int) -> None:
        shutil.rmtree(self._directory / f"slot-{index}", ignore_errors=True)
        with self._lock:
            claim = self._slots.pop(index)
        if claim is not None:
            claim.close()

    def _end(self, slot: Slot, process: SandboxProcess | None, relay: Relay | None) -> None:
        if process is not None:
            process.end()
        if relay is not None:
            relay.close()
        self._give_back(slot.index)
