"""The whole stack on one machine: broker, store, topics, tables, API, workers; started in order, kept running, stopped in order."""

from __future__ import annotations

import hashlib
import http.client
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

from fqlstream.local.broker import Broker, provide_broker
from fqlstream.local.joining import Pids, StackFile, hold, stack_path, write_stack
from fqlstream.local.membership import Membership, membership_of
from fqlstream.local.ports import answers, keep_port, kept_port
from fqlstream.local.processes import Child, ChildSpec, ProcessError, Supervisor
from fqlstream.local.progress import SILENT, Progress
from fqlstream.ops import access, topics
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.settings import Settings, StoreSettings
from fqlstream.store import migrations
from fqlstream.store.client import Store

STORE: Final = "store"
API: Final = "api"
RUNNER: Final = "runner"
KAFKA: Final = "kafka"
_TICK_S: Final = 0.2
_ASK_S: Final = 2.0
#: Out of the time that an orderly stop has: the API and workers end together, then the store and the broker may go.
_STOP_SHARES: Final = {API: 0.5, RUNNER: 0.5, "worker": 0.5, STORE: 0.3, KAFKA: 0.2}
#: Any topic that the group reads.
_SOURCE: Final = "inference-events"
_KEY_FILE: Final = "store.key"
#: What the store says when something else got its port first.
_PORT_TAKEN: Final = "STO012"
#: What the API says then.
_API_PORT_TAKEN: Final = "API032"
#: And a worker.
_WORKER_PORT_TAKEN: Final = "APP021"


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that runs. `settings` reach its broker and its store; `describe` tells of its parts as they are now."""

    settings: Settings
    broker: Broker
    describe: Callable[[], StackFile]


@contextmanager
def running_stack(settings: Settings, data: Path, *, workers: int, progress: Progress = SILENT) -> Iterator[Stack]:
    """Start everything in a data directory, keep it running, and stop it in order.

    Parts that die are started again by a thread. When all is ready `stack.json` is written, and written again at each
    restart. Raises UsageError where a stack runs in the directory already, FqlstreamError where a part cannot be had.
    """
    with hold(data):
        stack_path(data).unlink(missing_ok=True)
        building = _Building(settings, data, workers, progress)
        try:
            stack = building.start()
            write_stack(data, stack.describe())
            with building.supervision():
                yield stack
        finally:
            stack_path(data).unlink(missing_ok=True)
            building.stop()


class _Building:
    """What has been started so far."""

    def __init__(self, settings: Settings, data: Path, workers: int, progress: Progress) -> None:
        self._settings = settings
        self._data = data
        self._worker_names = tuple(f"worker-{number}" for number in range(1, workers + 1))
        self._progress = progress
        self._broker: Broker | None = None
        self._supervisor = Supervisor(
            log_bytes_max=settings.local.log_bytes_max, say=progress.line, changed=self._rewrite
        )
        self._describe: Callable[[], StackFile] | None = None

    def start(self) -> Stack:
        """Start the parts in the order in which they need each other."""
        store = None if self._settings.store.url else self._begin_store()
        broker = self._broker = provide_broker(self._settings, self._data, progress=self._progress)
        if broker.child is not None:
            self._supervisor.adopt(broker.child)
        kafka = self._settings.kafka.model_copy(update={"bootstrap": broker.bootstrap})
        joined = self._settings.model_copy(update={"data": self._data, "kafka": kafka})
        self._apply_topics(joined)
        if store is not None:
            joined = joined.model_copy(update={"store": self._await_store(store)})
        kind = "ClickHouse in a process of its own" if store else "yours"
        self._progress.line(f"store: {kind} at {joined.store.url}")
        with Store.connect(joined.store) as client:
            migrations.apply(client)
            api_key = access.ensure_key(client, self._data / access.KEY_FILE) if joined.api.auth else None
        api = self._begin_api(joined)
        self._start_workers(joined)
        api_url = self._await_api(api, joined)
        if self._settings.local.runners:  # last: what others wait for starts first
            self._begin_runner(joined)
        self._describe = lambda: self._file(joined, broker, api_url, api_key)
        return Stack(joined, broker, self._describe)

    def _begin_store(self) -> Child:
        """Start the embedded store, without waiting for it: the broker can start meanwhile."""
        host = self._settings.store.host
        port = keep_port(self._data, STORE, self._settings.store.port or None, host=host)
        spec = ChildSpec(
            name=STORE,
            command=(
                sys.executable, "-m", "fqlstream.store.embedded",
                "--data", str(self._data.absolute()), "--host", host, "--port", str(port),
            ),
            log=self._data / "logs" / "store.log",
            ready=lambda: _answers(host, port, "/ping"),
            start_timeout_s=self._settings.local.start_timeout_s,
            stop_timeout_s=self._share(STORE),
        )  # fmt: skip
        child = Child(spec)
        child.start()
        self._supervisor.adopt(child)
        return child

    def _await_store(self, store: Child) -> StoreSettings:
        """Wait until the store answers; where something took its port meanwhile, start it on another."""
        try:
            store.wait_ready()
        except ProcessError as error:
            if _PORT_TAKEN not in error.message:
                raise
            self._begin_store().wait_ready()
        host = self._settings.store.host
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{kept_port(self._data, STORE)}"
        password = SecretStr((self._data / _KEY_FILE).read_text().strip())
        return self._settings.store.model_copy(update={"url": url, "password": password})

    def _apply_topics(self, settings: Settings) -> None:
        self._progress.status("making topics")
        admin = AdminClient(librdkafka_options(settings.kafka))
        report = topics.apply(admin, topics.plan(admin, topics.load_declarations()))
        for difference in report.refused:
            text = f"{difference.setting} is {difference.actual}, {difference.declared} declared"
            self._progress.line(f"topic {difference.topic}: {text}; see `fqlstream topics plan`")

    def _start_workers(self, joined: Settings) -> None:
        """Start all workers, then wait until the group has them."""
        if not self._worker_names:
            return
        self._progress.status("starting workers")
        membership = membership_of(joined.kafka, _SOURCE)
        membership.look(self._settings.local.start_timeout_s)
        children = [Child(self._worker_spec(name, joined, membership)) for name in self._worker_names]
        for child in children:
            child.start()
            self._supervisor.adopt(child)
        for child in children:
            _await_worker(child)

    def _begin_api(self, joined: Settings) -> Child:
        """Start the API, without waiting for it: the workers can start meanwhile."""
        host, tls = joined.api.host, joined.api.certificate_file is not None
        port = keep_port(self._data, API, joined.api.port or None, host=host)
        spec = ChildSpec(
            name=API,
            command=(sys.executable, "-m", "fqlstream.cli", "serve", "--host", host, "--port", str(port)),
            log=self._data / "logs" / "api.log",
            # of a certificate it is enough here that its owner listens
            ready=lambda: answers(host, port) if tls else _answers(host, port, "/health/live"),
            environment=self._environment(joined),
            start_timeout_s=self._settings.local.start_timeout_s,
            stop_timeout_s=self._share(API),
        )
        child = Child(spec)
        child.start()
        self._supervisor.adopt(child)
        return child

    def _begin_runner(self, joined: Settings) -> None:
        """Start the runner of code metrics, and wait for nothing: nobody else needs it, and it says itself that it is there."""
        spec = ChildSpec(
            name=RUNNER,
            command=(sys.executable, "-m", "fqlstream.cli", "code-metrics", "serve"),
            log=self._data / "logs" / "runner.log",
            ready=lambda: True,
            environment=self._environment(joined),
            stop_timeout_s=self._share(RUNNER),
        )
        child = Child(spec)
        child.start()
        self._supervisor.adopt(child)

    def _await_api(self, api: Child, joined: Settings) -> str:
        """Wait until the API answers, and give its address; where something took its port meanwhile, start it on another."""
        try:
            api.wait_ready()
        except ProcessError as error:
            if _API_PORT_TAKEN not in error.message:
                raise
            self._begin_api(joined).wait_ready()
        host = joined.api.host
        scheme = "https" if joined.api.certificate_file else "http"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{kept_port(self._data, API)}"
        self._progress.line(f"API: {url}")
        return url

    def _environment(self, joined: Settings) -> dict[str, str]:
        """Name the parts of the stack for a process of it."""
        environment = {
            "FQLSTREAM_DATA": str(self._data.absolute()),
            "FQLSTREAM_KAFKA__BOOTSTRAP": str(joined.kafka.bootstrap),
            "FQLSTREAM_STORE__URL": str(joined.store.url),
        }
        if joined.store.password is not None:
            environment["FQLSTREAM_STORE__PASSWORD"] = joined.store.password.get_secret_value()
        return environment

    def _worker_spec(self, name: str, joined: Settings, membership: Membership) -> ChildSpec:
        instance = _instance_id(self._data, name)
        # a worker that is started again takes its own place, instead of waiting until the group gives up the dead one
        environment = {
            **self._environment(joined),
            "FQLSTREAM_KAFKA__INSTANCE_ID": instance,
            # where something else gets it first, the worker ends and is started on another: what is kept is true
            "FQLSTREAM_WORKER__PORT_GIVES_WAY": "false",
        }

        def port() -> dict[str, str]:
            # each worker keeps its own, so that whoever scrapes it need not look for it
            kept = keep_port(self._data, name, joined.worker.port or None, host=joined.worker.host)
            return {"FQLSTREAM_WORKER__PORT": str(kept)}

        return ChildSpec(
            name=name,
            command=(sys.executable, "-m", "fqlstream.cli", "worker"),
            log=self._data / "logs" / f"{name}.log",
            ready=lambda: membership.has_joined(instance),
            environment=environment,
            choose=port,
            start_timeout_s=self._settings.local.start_timeout_s,
            stop_timeout_s=self._share("worker"),
        )

    def _share(self, part: str) -> float:
        return self._settings.local.stop_timeout_s * _STOP_SHARES[part]

    def _file(self, joined: Settings, broker: Broker, api_url: str, api_key: str | None) -> StackFile:
        password = joined.store.password if self._settings.store.url is None else None
        return StackFile(
            bootstrap=broker.bootstrap,
            broker=broker.kind,
            store_url=joined.store.url,
            # the key of our own store; a password of yours stays where it is
            store_key=password.get_secret_value() if password else None,
            api_url=api_url,
            api_key=api_key,
            pids=Pids(
                broker=self._supervisor.pid(KAFKA),
                store=self._supervisor.pid(STORE),
                api=self._supervisor.pid(API),
                workers=tuple(pid for pid in map(self._supervisor.pid, self._worker_names) if pid is not None),
                runner=self._supervisor.pid(RUNNER),
            ),
        )

    def _rewrite(self) -> None:
        if self._describe is not None:
            write_stack(self._data, self._describe())

    @contextmanager
    def supervision(self) -> Iterator[None]:
        """Look after the children in a thread."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(_TICK_S):
                try:
                    self._supervisor.tick()
                except Exception as error:  # what cannot be started now is tried again; looking must not end
                    self._progress.line(f"supervising: {type(error).__name__}: {error}")

        thread = threading.Thread(target=look, name="supervisor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def stop(self) -> None:
        """End what was started: the API answers and workers write what they have, then the store and the broker may go."""
        self._supervisor.stop(
            [[API, RUNNER, *self._worker_names], [STORE], [KAFKA]], self._settings.local.stop_timeout_s
        )
        if self._broker is not None:
            self._broker.stop()


def _await_worker(worker: Child) -> None:
    """Wait until a worker is ready; where something took its port meanwhile, start it on another."""
    try:
        worker.wait_ready()
    except ProcessError as error:
        if _WORKER_PORT_TAKEN not in error.message:
            raise
        worker.start()
        worker.wait_ready()


def _answers(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=_ASK_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _instance_id(data: Path, name: str) -> str:
    """Name a worker the same at each start, and unlike any worker of another machine or directory."""
    directory = hashlib.sha256(str(data.absolute()).encode()).hexdigest()[:8]
    return f"{platform.node()}-{directory}-{name}"
