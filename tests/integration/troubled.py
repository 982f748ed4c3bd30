"""A stack whose broker and store are hurt by tests: a broker that can be killed and kept away, a store behind a proxy that misbehaves."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from tests.integration.test_crash import Stack, definitions, new_model
from tests.misbehaving_store import MisbehavingStore
from tests.store_process import StoreProcess
from tests.waiting import wait_until

from fqlstream.local.broker import Broker, provide_broker
from fqlstream.local.joining import Pids, StackFile, hold, write_stack
from fqlstream.ops import topics
from fqlstream.settings import StoreSettings, load
from fqlstream.store import migrations
from fqlstream.store.client import Store

DEADLINE_S = 60.0


@dataclass
class Worker:
    """A worker process and what it says."""

    process: Any
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """Give the end of it, for a message."""
        return self.said[-3_000:]

    def count(self, text: str) -> int:
        return self.said.count(text)

    def says(self, text: str, seconds: float = DEADLINE_S) -> None:
        """Wait until the log holds a text."""
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < deadline, f"{text!r} was not said within {seconds} s:\n{self.said[-4000:]}"
            assert self.process.poll() is None or text in self.said, (
                f"ended {self.process.returncode}:\n{self.said[-4000:]}"
            )
            threading.Event().wait(0.05)

    @property
    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


@dataclass
class Troubled:
    """The parts, and the stack of the test that runs."""

    data: Path
    broker: Broker
    store_process: StoreProcess
    proxy: MisbehavingStore
    stack: Stack

    # -- workers and models ----------------------------------------------------------------------------------------

    def worker(self, module: str = "fqlstream.cli", **environment: str) -> Worker:
        """Start a worker."""
        before = set(self.data.glob("worker-*.log"))
        process = self.stack.start_worker(module, **environment)
        (log,) = set(self.data.glob("worker-*.log")) - before
        return Worker(process, log)

    def define(self) -> str:
        """Define a model with metrics and segments; gives its name."""
        model = new_model()
        file = self.data / f"{model}.yaml"
        file.write_text(definitions(model))
        self.stack.run("apply", "-f", str(file))
        return model

    # -- the broker ------------------------------------------------------------------------------------------------

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.broker.bootstrap, "log_level": 0})

    def kill_broker(self) -> None:
        """End it as a power failure would."""
        child = self.broker.child
        assert child is not None
        assert child._process is not None
        child._process.kill()
        child._process.wait()

    def start_broker(self) -> None:
        """Start it again, on its data and its port."""
        child = self.broker.child
        assert child is not None
        child.start()
        child.wait_ready()

    @contextmanager
    def without_broker(self) -> Iterator[None]:
        self.kill_broker()
        try:
            yield
        finally:
            self.start_broker()

    def delete_topic(self, topic: str) -> None:
        """Delete a topic; returns when it is gone."""
        admin = self.admin
        try:
            admin.delete_topics([topic])[topic].result(20)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
        wait_until(lambda: topic not in admin.list_topics(timeout=10).topics, f"{topic} is gone")

    def make_topics(self) -> None:
        """Make the topics that are declared and missing."""
        admin = self.admin
        topics.apply(admin, topics.plan(admin, topics.load_declarations()))

    # -- the store -------------------------------------------------------------------------------------------------

    def kill_store(self) -> None:
        self.store_process.kill()

    def start_store(self) -> None:
        """Start the store again on its directory; the proxy finds it."""
        self.store_process = StoreProcess.start(self.store_process.data)
        self._show()

    def copy_store(self, where: Path) -> None:
        """Keep a copy of the stopped store's files."""
        shutil.copytree(self.store_process.data, where, symlinks=True)

    def restore_store(self, where: Path) -> None:
        """Put a copy in the place of the stopped store's files."""
        shutil.rmtree(self.store_process.data)
        shutil.copytree(where, self.store_process.data, symlinks=True)

    def store(self, database: str | None = None) -> Store:
        """Give a client of the store itself, past the proxy."""
        url = f"{self.store_process.url}/{database or self.database}"
        return Store.connect(StoreSettings(), url=url, key=self.store_process.key)

    def flushes(self) -> int:
        """Give the highest number of a flush that is durable."""
        with self.store() as store:
            return int(store.query_rows("SELECT max(flush) FROM flushes")[0][0])

    @property
    def database(self) -> str:
        return str(self.stack.described["store_url"]).rsplit("/", 1)[1]

    def _show(self) -> None:
        """Point the proxy, and what looks past it, at the store as it runs now."""
        self.proxy.target = (self.store_process.host, self.store_process.port)
        self.stack.described["store_url"] = f"{self.store_process.url}/{self.database}"

    def renew(self) -> None:
        """Give the next test empty topics and an empty database, and start what a failure has left dead."""
        if self.store_process.process.poll() is not None:
            self.start_store()
        if self.broker.child is not None and self.broker.child.exit_code is not None:
            self.start_broker()
        names = [each.name for each in topics.load_declarations()]
        admin = self.admin
        there = admin.list_topics(timeout=10).topics
        for future in admin.delete_topics([name for name in names if name in there]).values() if there else ():
            future.result(20)
        wait_until(lambda: not set(names) & set(admin.list_topics(timeout=10).topics), "topics are gone")
        self.make_topics()
        database = new_model()
        with self.store("default") as store:
            store.command(f"CREATE DATABASE {database}")
        self.stack.described["store_url"] = f"{self.store_process.url}/{database}"
        with self.store() as store:
            migrations.apply(store)
        write_stack(
            self.data,
            StackFile(
                bootstrap=self.broker.bootstrap,
                broker=self.broker.kind,
                store_url=f"{self.proxy.url}/{database}",
                store_key=self.store_process.key,
                api_url=None,
                api_key=None,
                pids=Pids(None, None, None, ()),
            ),
        )


@contextmanager
def troubled_stack(data: Path) -> Iterator[Troubled]:
    """Run the parts, without workers."""
    with hold(data):
        broker = provide_broker(load(), data, port=0)
        store = StoreProcess.start(data / "embedded")
        proxy = MisbehavingStore((store.host, store.port))
        proxy.start()
        described = {
            "bootstrap": broker.bootstrap, "store_url": f"{store.url}/default", "store_key": store.key,
        }  # fmt: skip
        troubled = Troubled(data, broker, store, proxy, Stack(data, described))
        try:
            yield troubled
        finally:
            troubled.stack.stop_workers()
            proxy.stop()
            if troubled.store_process.process.poll() is None:
                troubled.store_process.stop()
            broker.stop()
