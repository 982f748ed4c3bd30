"""The Kafka clients' lines while a broker is away."""

from __future__ import annotations

import logging

from fqlstream.app.logs import Sparse


def line(name: str, text: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, __file__, 1, text, values, None)


def test_one_line_of_each_kind_is_written_in_a_while_with_the_number_of_those_left_out() -> None:
    at_s = 0.0
    sparse = Sparse(lambda: at_s)
    written = []
    for second in range(61):
        at_s = float(second)
        for name, text in (("aiokafka", "no node %s: %s"), ("aiokafka.consumer", "no coordinator %s: %s")):
            record = line(name, text, 1, second)
            if sparse.filter(record):
                written.append((name, record.getMessage()))
    assert [text for name, text in written if name == "aiokafka"] == [
        "no node 1: 0",
        "no node 1: 30 (29 such lines were left out before)",
        "no node 1: 60 (29 such lines were left out before)",
    ]
    assert len(written) == 6


def test_the_engines_own_lines_are_all_written() -> None:
    sparse = Sparse(lambda: 0.0)
    assert all(sparse.filter(line("fqlstream.aggregate", "took over %s", 1)) for _ in range(5))
