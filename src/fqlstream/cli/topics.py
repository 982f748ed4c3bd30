"""`fqlstream topics`: declared against actual."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka.admin import AdminClient

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_note, print_table, print_text
from fqlstream.errors import UsageError
from fqlstream.ops import topics as ops
from fqlstream.ops.kafka_options import librdkafka_options

app = typer.Typer(no_args_is_help=True, help="Topics as declared, as they are, and making them so.")

DirectoryOption = Annotated[
    Path | None, typer.Option("--topics", help="Directory of declarations; those of fqlstream otherwise.")
]
ReplicationOption = Annotated[
    int | None, typer.Option("--replication", min=1, help="Replicas instead of those declared.")
]
RepartitionOption = Annotated[
    bool, typer.Option("--repartition", help="Let source topics grow too; `plan` says what that means for labels.")
]
PartitionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--partitions", metavar="TOPIC=N", help="Partitions of a topic instead of those declared; several times."
    ),
]
LeaveOption = Annotated[
    bool,
    typer.Option(
        "--leave-refused",
        help="End with 0 where only differences for a person are left, for deployments; they are printed.",
    ),
]


@app.command()
def plan(
    directory: DirectoryOption = None,
    replication: ReplicationOption = None,
    partitions: PartitionsOption = None,
    repartition: RepartitionOption = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Say what `apply` would do. Exit code 1 where a difference needs a person."""
    report = _plan(directory, replication, partitions, repartition, data)[1]
    _show(report, json)
    raise typer.Exit(1 if report.refused else 0)


@app.command()
def apply(
    directory: DirectoryOption = None,
    replication: ReplicationOption = None,
    partitions: PartitionsOption = None,
    repartition: RepartitionOption = False,
    leave_refused: LeaveOption = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Create what is missing, set what differs, grow what may grow. Exit code 1 where a difference is left to a person."""
    admin, planned = _plan(directory, replication, partitions, repartition, data)
    report = ops.apply(admin, planned)
    _show(report, json)
    raise typer.Exit(1 if report.refused and not leave_refused else 0)


@app.command()
def check(
    directory: DirectoryOption = None,
    replication: ReplicationOption = None,
    partitions: PartitionsOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Say whether the topics are as declared. Exit code 1 where they are not."""
    report = _plan(directory, replication, partitions, False, data)[1]
    _show(report, json)
    raise typer.Exit(1 if report.pending or report.refused else 0)


def _plan(
    directory: Path | None,
    replication: int | None,
    partitions: list[str] | None,
    repartition: bool,
    data: Path | None,
) -> tuple[AdminClient, ops.TopicReport]:
    declarations = ops.load_declarations(directory)
    admin = AdminClient(librdkafka_options(settings_for(data).kafka))
    wanted = dict(map(_topic_and_number, partitions or ()))
    report = ops.plan(admin, declarations, replication=replication, repartition=repartition, partitions=wanted)
    return admin, report


def _topic_and_number(text: str) -> tuple[str, int]:
    topic, _, number = text.partition("=")
    if not number.isdecimal() or int(number) < 1:
        raise UsageError("CLI041", f"--partitions {text}: no topic and number", "write TOPIC=N: inference-events=12")
    return topic, int(number)


def _show(report: ops.TopicReport, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "brokers": report.brokers,
                "topics": report.topics,
                "applied": report.applied,
                "differences": [asdict(difference) for difference in report.differences],
            }
        )
        return
    if not report.differences:
        print_text(f"{len(report.topics)} topics are as declared")
        return
    columns = ("topic", "setting", "declared", "actual", "done" if report.applied else "to do")
    print_table(columns, ((d.topic, d.setting, d.declared, d.actual, d.action) for d in report.differences))
    for note in dict.fromkeys(f"{d.topic} {d.setting}: {d.note}" for d in report.differences if d.note):
        print_note(note)
