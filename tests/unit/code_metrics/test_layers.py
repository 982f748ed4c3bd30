from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fqlstream.code_metrics import layers
from fqlstream.code_metrics.request import Layer
from fqlstream.code_metrics.sandbox import Isolation, Slot

SLOT = Slot(Path("/nowhere"), 0, 1_900_000_000)
ISOLATION = Isolation(Path("/usr/bin/bwrap"), user_namespace=False, network=True)
#: What a probe sees where everything holds.
HELD: dict[str, Any] = {
    "uid": 1_900_000_000,
    "capabilities": ["0000000000000000"],
    "no_new_privs": True,
    "seccomp": True,
    "read": ["ENOENT", "EACCES"],
    "unlisted": "EACCES",
    "wrote": [],
    "interfaces": ["lo"],
    "reached": False,
    "vsock": False,
    "processes": 3,
}


def inactive(report: dict[str, Any], isolation: Isolation = ISOLATION) -> set[str]:
    return {layer.name for layer in layers.judge(report, SLOT, isolation, []) if not layer.active}


def test_a_closed_sandbox_has_every_layer() -> None:
    assert inactive(HELD) == set()


@pytest.mark.parametrize(
    ("seen", "lost"),
    [
        ({"read": ["ENOENT", "read"]}, "file_system"),
        ({"wrote": ["/etc"]}, "file_system"),
        ({"interfaces": ["eth0", "lo"]}, "network"),
        ({"reached": True}, "network"),
        ({"vsock": True}, "network"),
        ({"processes": 90}, "processes"),
        ({"uid": 0}, "user"),
        ({"uid": 65_534}, "user"),
        ({"capabilities": ["0000000000000000", "00000000000001c0"]}, "user"),
        ({"unlisted": "read"}, "landlock"),
        ({"seccomp": False}, "seccomp"),
        ({"no_new_privs": False}, "limits"),
    ],
)
def test_each_way_out_is_a_layer_that_does_not_hold(seen: dict[str, Any], lost: str) -> None:
    assert inactive(HELD | seen) == {lost}


def test_a_directory_of_ours_where_every_sandbox_looks_is_a_layer_that_does_not_hold() -> None:
    told = layers.judge(HELD, SLOT, ISOLATION, [], [Path("/opt/venv/lib/data")])
    assert [layer.name for layer in told if not layer.active] == ["file_system"]
    assert "/opt/venv/lib/data lies where Python" in told[0].detail


@pytest.mark.parametrize(
    ("complaints", "active", "doubtful"), [((), True, False), (("no",), True, True), ((), False, True)]
)
def test_a_look_that_found_less_than_it_might_is_doubtful(
    complaints: tuple[str, ...], active: bool, doubtful: bool
) -> None:
    found = layers.Probed(ISOLATION, (Layer("network", active, ""),), complaints)
    assert found.doubtful == doubtful


@pytest.mark.parametrize(("counted", "active"), [(True, ("cgroup", "user")), (False, ("user",))])
def test_a_sandbox_that_is_in_no_control_group_does_not_have_that_layer(counted: bool, active: tuple[str, ...]) -> None:
    held = (Layer("cgroup", active=True, detail=""), Layer("user", active=True, detail=""))
    assert layers.Probed(ISOLATION, held).active(counted=counted) == active


@pytest.mark.parametrize(
    ("filtered", "detail"),
    [(True, "system calls"), (False, "system calls, but not of bubblewrap's own first process")],
)
def test_whose_system_calls_are_filtered_is_told(filtered: bool, detail: str) -> None:
    told = layers.judge(HELD, SLOT, replace(ISOLATION, filtered=filtered), [])
    assert [layer.detail for layer in told if layer.name == "seccomp"] == [detail]


def test_without_mounts_of_its_own_a_sandbox_sees_files_and_processes_whatever_landlock_keeps() -> None:
    assert inactive(HELD, Isolation(None, user_namespace=False, network=False)) == {"file_system", "processes"}


def test_why_a_closer_way_did_not_start_is_told() -> None:
    told = layers.judge(HELD | {"reached": True}, SLOT, ISOLATION, ["bubblewrap as root: no permission"])
    assert {layer.detail for layer in told if layer.name == "network"} == {
        "the machine's network can be reached (after: bubblewrap as root: no permission)"
    }
