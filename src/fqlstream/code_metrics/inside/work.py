"""A sandbox's own program: enter it, start an engine, wait for one job, answer, and be killed.

Messages are lines of JSON, the job on standard input, answers on a pipe of their own. After the metric's code has run, nothing
this process says is believed beyond what a metric may say anyway: values of its own frames.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any

from fqlstream.code_metrics.inside import calc, confine, engines


def main() -> None:
    """Serve one job; the argument is JSON: confine (a Plan), engine, options, and the number of the answers' pipe."""
    orders = json.loads(sys.argv[1])
    os.set_inheritable(orders["answers_fd"], False)  # Java and Spark's Python workers do not get it
    confine.enter(confine.Plan(**orders["confine"]))
    answers = os.fdopen(orders["answers_fd"], "w", encoding="utf-8")
    try:
        # what a library warns its author of is nothing that a metric's author can act on
        warnings.simplefilter("ignore")
        engines.alias_moved_modules()
        open_table = engines.ENGINES[orders["engine"]](orders["options"])
    except Exception as error:  # whatever keeps an engine from starting is told outside
        _say(answers, {"unready": f"{type(error).__name__}: {error}"[:2_000]})
        return
    _say(answers, {"ready": True})
    line = sys.stdin.readline()
    if not line:
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _serve(answers, open_table, json.loads(line))
    # Killed from outside: leaving would run what a metric may have registered for it.
    while True:
        time.sleep(3_600)


def _serve(answers: Any, open_table: engines.Opener, job: Mapping[str, Any]) -> None:
    try:
        table = _opened(open_table, job)
        function = calc.load(job["code"])
    except calc.MetricError as error:
        _say(answers, {"failed": error.parts})
        return
    _say(answers, {"loaded": True})
    for index, where in job["frames"]:
        _say(answers, {"frame": index, **_computed(function, table, where)})
    _say(answers, {"done": True})


def _opened(open_table: engines.Opener, job: Mapping[str, Any]) -> engines.Table:
    try:
        return open_table(job["paths"], job["hidden"])
    except calc.MetricError:
        raise
    except Exception as error:  # what an engine cannot read is told, or the run would only have ended
        raise calc.explained(error, ()) from None


def _computed(function: Any, table: engines.Table, where: str | None) -> dict[str, Any]:
    try:
        value = calc.compute(function, table.frame(where), table.columns)
    except calc.MetricError as error:
        return {"failure": error.parts}
    # JSON has neither NaN nor infinity
    return {"value": value} if math.isfinite(value) else {"flag": str(value)}


def _say(answers: Any, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
