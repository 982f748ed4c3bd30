"""The codes of dead letters: a contract with everybody who sorts them."""

from __future__ import annotations

import re

from fqlstream.events.refusals import REFUSALS, RefusedError

#: A code never changes its meaning and is never used again: this list only grows.
MEANINGS = """
DLQ001 no value | DLQ002 larger | DLQ003 UTF-8 | DLQ004 nested deeper | DLQ005 not one JSON text | DLQ006 no object |
DLQ007 none of inference, label, watermark | DLQ008 names no model | DLQ009 No model of this name | DLQ010 no such version |
DLQ011 event_id | DLQ012 no columns | DLQ013 no time | DLQ014 further after the record | DLQ015 further before the record |
DLQ016 not one whole Arrow | DLQ017 more rows or bytes | DLQ018 makes the engine fail | DLQ019 ended every worker |
DLQ020 none of pipeline_metric, list_metric, job_metric, forget | DLQ021 no usable id | DLQ022 no name | DLQ023 value is no number |
DLQ024 not a list of numbers | DLQ025 no integer | DLQ026 no time | DLQ027 would hold more | DLQ028 neither an execution nor a job
"""


def test_every_code_means_what_it_has_always_meant() -> None:
    meant = dict(part.strip().split(" ", 1) for part in MEANINGS.replace("\n", " ").split("|"))
    found = {refusal.code: refusal.meaning for refusal in REFUSALS}
    assert list(found) == list(meant)
    for code, words in meant.items():
        assert words in found[code]


def test_every_refusal_says_what_its_producer_can_do() -> None:
    for refusal in REFUSALS:
        assert re.fullmatch(r"DLQ\d{3}", refusal.code)
        assert refusal.meaning.endswith(".")
        assert refusal.remedy.endswith(".")
        assert refusal.remedy != refusal.meaning


def test_a_refused_record_carries_its_refusal_and_its_own_reason() -> None:
    error = RefusedError(REFUSALS[0], "value is null")
    assert (error.refusal, error.reason, str(error)) == (REFUSALS[0], "value is null", "value is null")
