"""What a worker that joined has changed, told from looks at how far everything was."""

from __future__ import annotations

from fqlstream.bench.scaling import SETTINGS, Seen, joining_figures


def test_settings_have_names_of_their_own() -> None:
    assert len({setting.figure for setting in SETTINGS}) == len(SETTINGS)
    assert all(setting.used <= setting.partitions for setting in SETTINGS)


def test_a_worker_that_joins_stands_still_first_and_catches_up_then() -> None:
    # 100 events a second come for 20 s. One worker takes 80; at 10 s a second one starts, for 2 s nothing moves, then both take 160.
    #
    #     seconds   0        10    12          20     24
    #     taken     80/s          0     160/s
    seen = []
    for tenth in range(301):
        at_s = tenth / 10
        sent = round(100 * min(at_s, 20.0))
        durable = min(sent, round(80 * min(at_s, 10.0) + 160 * max(0.0, at_s - 12.0)))
        seen.append(Seen(at_s, sent, durable))
    found = joining_figures(seen, 10.0)
    assert found["joining_behind_when_started"] == 200
    assert found["joining_behind_most"] == 400
    assert found["joining_events_per_s_before"] == 80
    assert 2_000 <= found["joining_standstill_ms"] <= 2_200
    assert found["joining_caught_up_s"] == 8.7  # 400 behind at 12 s, 60 a second less
    assert 155 <= found["joining_events_per_s_after"] <= 165
