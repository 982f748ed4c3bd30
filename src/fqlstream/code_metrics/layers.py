"""Which layers of the sandbox hold on this machine: found out from inside, once, by trying each way out."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fqlstream.code_metrics import cgroups, java, sandbox
from fqlstream.code_metrics.inside import seccomp
from fqlstream.code_metrics.process import filter_pipe
from fqlstream.code_metrics.request import Layer, Limits
from fqlstream.code_metrics.sandbox import Isolation, Slot
from fqlstream.settings import CodeMetricsSettings

_PROBE_WAIT_S: Final = 60.0  # Python starts in 0.1 s; on a loaded machine in seconds
#: Where nobody inside may write, whatever they are.
_CLOSED_PLACES: Final = ("/", "/etc", "/usr", "/dev", "/proc", sandbox.DATA, "/opt")

_CGROUP: Final = "cgroup"

#: Layers that are looked at from inside.
_INSIDE: Final = ("file_system", "network", "processes", "user", "landlock", "seccomp", "limits")


@dataclass(frozen=True, slots=True)
class Probed:
    """How sandboxes are started here, and what that keeps."""

    isolation: Isolation
    layers: tuple[Layer, ...]
    complaints: tuple[str, ...] = ()

    @property
    def doubtful(self) -> bool:
        """Whether another look may find more: a machine that was loaded, a package that was installed since."""
        return bool(self.complaints or self.missing())

    def active(self, *, counted: bool = True) -> tuple[str, ...]:
        """Give the names of the layers that hold; not `counted`: for a sandbox that did not come into its control group."""
        return tuple(layer.name for layer in self.layers if layer.active and (counted or layer.name != _CGROUP))

    def missing(self) -> tuple[str, ...]:
        """Those of the layers that must hold, unless an operator says otherwise, which do not."""
        return tuple(
            layer.name for layer in self.layers if layer.name in {"file_system", "network"} and not layer.active
        )


def probe(
    settings: CodeMetricsSettings, slot: Slot, limits: Limits, parents: cgroups.Parents, private: Sequence[Path]
) -> Probed:
    """Try the ways to set a process apart, the closest first, and look from inside what the first that starts keeps.

    `private` are directories of ours that no sandbox may see.
    """
    complaints: list[str] = []
    home = os.environ.get("HOME")
    exposed = sandbox.seen([*private, *([Path(home)] if home else [])], java.find_java(settings.java_home)[0])
    for isolation in _candidates(settings):
        try:
            report = _look(isolation, slot, limits, private)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            complaints.append(_complaint(isolation, error))
            continue
        judged = judge(report, slot, isolation, complaints, exposed)
        return Probed(isolation, (*_static(settings), *judged, *_counted(parents)), tuple(complaints))
    nothing = Isolation(None, user_namespace=False, network=False)
    lost = [Layer("file_system", active=False, detail="no sandbox can be started: " + "; ".join(complaints))]
    lost += [Layer(name, active=False, detail="no sandbox can be started") for name in _INSIDE[1:]]
    return Probed(nothing, (*_static(settings), *lost), tuple(complaints))


def _candidates(settings: CodeMetricsSettings) -> list[Isolation]:
    bwrap = sandbox.find_bwrap(settings.bubblewrap)
    found = []
    if bwrap is not None:
        kinds = (False, True) if os.getuid() == 0 else (True,)
        # a container may refuse bubblewrap what it lets a process do to itself
        filters = (True, False) if seccomp.is_known() else (False,)
        found = [
            Isolation(bwrap, user, network, filtered)
            for network in (True, False)
            for user in kinds
            for filtered in filters
        ]
    return [*found, Isolation(None, user_namespace=False, network=False)]


def _look(isolation: Isolation, slot: Slot, limits: Limits, private: Sequence[Path]) -> dict[str, Any]:
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)
        laid = [_lay_secret(opened, directory)]
        for place in private:
            with contextlib.suppress(OSError):  # not made yet, or not ours to write
                laid.append(_lay_secret(opened, place))
        port: int = listener.getsockname()[1]
        orders = sandbox.orders(
            isolation,
            slot,
            limits,
            None,
            int(_PROBE_WAIT_S),
            secrets=laid,
            unlisted=sandbox.UNLISTED,
            port=port,
            places=_CLOSED_PLACES,
        )
        program = ("fqlstream.code_metrics.inside.probe", orders)
        fds = {"--seccomp": filter_pipe()} if isolation.filtered else {}
        for fd in fds.values():
            opened.callback(os.close, fd)
        done = subprocess.run(  # noqa: S603  # our own command
            sandbox.command(isolation, slot, limits, None, program, fds),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_WAIT_S,
            check=True,
            env=sandbox.environment(isolation, slot, 1, None),
            cwd="/",
            pass_fds=tuple(fds.values()),
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _lay_secret(opened: contextlib.ExitStack, directory: Path) -> str:
    """Write a file that is gone when `opened` ends, and that only the sandbox keeps anybody from reading; give its path."""
    path = directory / f".fqlstream-probe-{secrets.token_hex(8)}"
    path.touch()
    opened.callback(path.unlink, missing_ok=True)
    path.write_text(secrets.token_hex(8), encoding="ascii")
    path.chmod(0o644)
    return str(path)


def judge(
    report: Mapping[str, Any],
    slot: Slot,
    isolation: Isolation,
    complaints: Sequence[str],
    exposed: Sequence[Path] = (),
) -> list[Layer]:
    """Say which layers hold by what a probe saw.

    `complaints` are of closer ways that did not start; `exposed` are directories of ours that lie where every sandbox looks.
    """
    earlier = f" (after: {'; '.join(complaints)})" if complaints else ""
    # Landlock alone leaves /proc, where our own environment can be read
    mounted = isolation.bwrap is not None
    files = mounted and "read" not in report["read"] and not report["wrote"] and not exposed
    outside = f"outside files can be reached{earlier}"
    if exposed:
        outside = f"{' and '.join(map(str, exposed))} lies where Python or Java does, which every sandbox can read"
    lonely = report["interfaces"] == ["lo"] and not report["reached"] and not report["vsock"]
    apart = mounted and report["processes"] <= 4
    unprivileged = report["uid"] != 0 and all(int(value, 16) == 0 for value in report["capabilities"])
    user = f"runs as user {report['uid']} without capabilities" if unprivileged else f"runs as user {report['uid']}"
    calls = "system calls" if isolation.filtered else "system calls, but not of bubblewrap's own first process"
    if slot.uid is not None and report["uid"] == slot.uid:
        user += ", of its own"
    elif slot.uid is not None:
        # in a user namespace of ours another number is still root, for the kernel outside
        unprivileged, user = False, f"{user}, which is root outside of its namespace"
    return [
        Layer(
            "file_system",
            files,
            "mounts of its own, read-only but for /tmp" if files else outside,
        ),
        Layer(
            "network",
            lonely,
            "no interface but its own loopback" if lonely else f"the machine's network can be reached{earlier}",
        ),
        Layer("processes", apart, "sees its own processes only" if apart else f"sees the machine's processes{earlier}"),
        Layer("user", unprivileged, user),
        Layer(
            "landlock",
            report["unlisted"] == "EACCES",
            "file rules" if report["unlisted"] == "EACCES" else "the kernel has no Landlock",
        ),
        Layer("seccomp", report["seccomp"], calls if report["seccomp"] else "the kernel takes no filter"),
        Layer(
            "limits",
            report["no_new_privs"],
            "memory, processes, processor time and file size of each process; no new privileges",
        ),
    ]


def _static(settings: CodeMetricsSettings) -> tuple[Layer, ...]:
    detail = (
        "imports and names, before anything runs"
        if settings.static_check
        else "switched off by FQLSTREAM_CODE_METRICS__STATIC_CHECK"
    )
    supervisor = Layer("supervisor", active=True, detail="time, memory, processes, output; ends everything")
    return Layer("static_check", settings.static_check, detail), supervisor


def _counted(parents: cgroups.Parents) -> tuple[Layer, ...]:
    held = [name for name, path in (("memory", parents.memory), ("processes", parents.pids)) if path is not None]
    detail = f"{' and '.join(held)} counted by the kernel" if held else "memory and processes are counted by sampling"
    return (Layer(_CGROUP, bool(held), f"{detail}; {parents.why_not}" if parents.why_not else detail),)


def _complaint(isolation: Isolation, error: Exception) -> str:
    printed = getattr(error, "stderr", None) or b""
    lines = (printed.decode("utf-8", "replace") if isinstance(printed, bytes) else str(printed)).strip().splitlines()
    how = "in a user namespace" if isolation.user_namespace else "as root"
    how = "without bubblewrap" if isolation.bwrap is None else f"bubblewrap {how}"
    shared = " on the machine network" if isolation.bwrap is not None and not isolation.network else ""
    filtered = " with a filter" if isolation.filtered else ""
    return f"{how}{shared}{filtered}: {(lines[-1] if lines else str(error))[-300:]}"
