from __future__ import annotations

import fcntl
import json
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from fqlstream.cli.options import settings_for
from fqlstream.errors import UsageError
from fqlstream.local.joining import Pids, StackFile, hold, is_locked, join, read_stack, stack_path, write_stack
from fqlstream.settings import KafkaSettings, Settings, StoreSettings, load

STACK = StackFile(
    bootstrap="127.0.0.1:1", broker="maven", store_url="http://127.0.0.1:2", store_key="s3cret", api_url=None, api_key=None,
    pids=Pids(broker=11, store=12, api=None, workers=(13, 14)),
)  # fmt: skip


def test_the_file_has_the_keys_of_the_contract_and_is_its_owners_alone(tmp_path: Path) -> None:
    write_stack(tmp_path, STACK)
    assert json.loads(stack_path(tmp_path).read_text()) == {
        "bootstrap": "127.0.0.1:1", "broker": "maven", "store_url": "http://127.0.0.1:2", "store_key": "s3cret",
        "api_url": None, "api_key": None, "pids": {"broker": 11, "store": 12, "api": None, "workers": [13, 14], "runner": None},
    }  # fmt: skip
    assert stat.S_IMODE(stack_path(tmp_path).stat().st_mode) == 0o600
    assert "s3cret" not in repr(STACK)


def test_joining_fills_in_the_addresses_and_the_key(tmp_path: Path) -> None:
    with hold(tmp_path):
        write_stack(tmp_path, STACK)
        assert read_stack(tmp_path) == STACK
        joined = join(tmp_path, load())
    assert (joined.kafka.bootstrap, joined.store.url) == ("127.0.0.1:1", "http://127.0.0.1:2")
    assert joined.store.password == SecretStr("s3cret")
    assert joined.data == tmp_path
    assert "s3cret" not in f"{joined!r} {joined}"


def test_a_password_of_yours_stays_where_a_stack_uses_your_clickhouse(tmp_path: Path) -> None:
    settings = Settings(store=StoreSettings(password=SecretStr("mine")))
    with hold(tmp_path):
        write_stack(tmp_path, StackFile(**{**_fields(STACK), "store_key": None}))
        assert join(tmp_path, settings).store.password == SecretStr("mine")


def _fields(stack: StackFile) -> dict[str, object]:
    return {name: getattr(stack, name) for name in StackFile.__slots__}


def test_where_no_stack_runs_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no stack runs in") as caught:
        join(tmp_path / "none", load())
    assert "fqlstream up --data" in str(caught.value.hint)
    write_stack(tmp_path, STACK)  # what a killed stack left behind
    with pytest.raises(UsageError, match="no stack runs in"):
        read_stack(tmp_path)


def test_a_directory_has_one_owner_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    code = "import signal, sys; from pathlib import Path; from fqlstream.local.joining import hold\nwith hold(Path(sys.argv[1])): print('held', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        assert is_locked(tmp_path)
        with pytest.raises(UsageError, match="already runs") as caught, hold(tmp_path):
            pass
        assert caught.value.exit_code == 2
        owner.kill()
        owner.wait()
    with hold(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


class TestSettingsFor:
    def test_named_parts_stand_and_missing_ones_come_from_the_stack(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        data = tmp_path / ".fqlstream"
        with hold(data):
            write_stack(data, STACK)
            monkeypatch.setenv("FQLSTREAM_KAFKA__BOOTSTRAP", "elsewhere:9092")
            mixed = settings_for(None)
            assert (mixed.kafka.bootstrap, mixed.store.url) == ("elsewhere:9092", STACK.store_url)
            told = settings_for(data)
            assert told.kafka.bootstrap == STACK.bootstrap, "--data wins"
        assert settings_for(None).store.url is None
        monkeypatch.delenv("FQLSTREAM_KAFKA__BOOTSTRAP")
        with pytest.raises(UsageError, match="no stack runs"):
            settings_for(None)

    def test_no_secret_is_printed(self) -> None:
        settings = Settings(
            kafka=KafkaSettings(sasl_password=SecretStr("hush")), store=StoreSettings(password=SecretStr("hush"))
        )
        assert "hush" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


def test_who_only_looks_keeps_nobody_from_starting(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open("a") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        with hold(tmp_path):
            assert is_locked(tmp_path)
