"""What facts mean: pure functions from what was seen to findings. Nothing here asks anybody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.refusals import REFUSALS
from fqlstream.ops.code_metric_status import Status as CodeMetric
from fqlstream.ops.doctor.findings import Finding, Severity
from fqlstream.ops.lag.judgement import Status
from fqlstream.ops.lag.report import GroupLag
from fqlstream.ops.topics import Action, LogRange, TopicHealth, TopicReport
from fqlstream.settings import DoctorSettings
from fqlstream.store.code_metric_rows import RunnerRow
from fqlstream.store.diagnosis import Disk, PublishedModel, Refused, Waiting
from fqlstream.stream.protocol import FlushRow

_REFUSALS = {refusal.code: refusal for refusal in REFUSALS}
OK, NOTE, WARN, ERROR = Severity.OK, Severity.NOTE, Severity.WARN, Severity.ERROR


def of_declarations(report: TopicReport) -> Iterator[Finding]:
    """Judge topics against their declarations."""
    check = "topics"
    missing = sorted({d.topic for d in report.differences if d.action is Action.CREATE})
    if missing:
        yield Finding(check, ERROR, f"missing: {', '.join(missing)}", "make them: fqlstream topics apply")
    for difference in report.differences:
        where = f"{difference.topic}: {difference.setting} is {difference.actual}, {difference.declared} declared"
        if difference.action is Action.REFUSED:
            yield Finding(check, WARN, where, difference.note)
        elif difference.action in {Action.SET, Action.GROW}:
            yield Finding(check, WARN, where, "make it so: fqlstream topics apply")
    if not report.pending and not report.refused:
        yield Finding(check, OK, f"{len(report.topics)} topics are as declared", facts={"brokers": report.brokers})


def of_replicas(topics: Sequence[TopicHealth]) -> Iterator[Finding]:
    """Judge leaders and replicas of topics."""
    check = "replicas"
    leaderless = [f"{each.topic}[{number}]" for each in topics for number in each.leaderless]
    behind = [f"{each.topic}[{number}]" for each in topics for number in each.under_replicated]
    if leaderless:
        yield Finding(check, ERROR, f"no leader: {_some(leaderless)}", "a broker is down: nothing of these can be read or written")  # fmt: skip
    if behind:
        yield Finding(check, WARN, f"replicas missing or behind: {_some(behind)}", "a broker is down or slow: one more, and writing stops")  # fmt: skip
    if not leaderless and not behind:
        yield Finding(check, OK, f"{sum(each.partitions for each in topics)} partitions have their leader and replicas")


def of_logs(rows: Sequence[FlushRow], topic: TopicHealth, logs: Mapping[int, LogRange]) -> Iterator[Finding]:
    """Judge whether what is durable and the log fit together: what a takeover would refuse is found before it."""
    check = "log"
    fine = True
    for row in rows:
        where, log = f"{row.topic}[{row.partition}]", logs.get(row.partition)
        next_offset = row.fence + 1
        if row.topic_id and topic.topic_id and row.topic_id != topic.topic_id:
            fine = False
            yield Finding(check, ERROR, f"{row.topic} is not the topic it was: it was deleted and created again", "restore the old topic, or start a new data directory or ClickHouse database (DLV001)")  # fmt: skip
            return
        if log is None:
            continue
        if next_offset < log.start:
            fine = False
            yield Finding(check, ERROR, f"{where}: offsets {next_offset} to {log.start - 1} have left the log before they were counted", "raise retention; what is gone is gone (DLV002)", {"lost_records": log.start - next_offset})  # fmt: skip
        elif next_offset > log.end:
            fine = False
            yield Finding(check, ERROR, f"{where}: states contain offset {next_offset - 1}, but the log ends before {log.end}", "restore Kafka and ClickHouse from one moment (DLV003)")  # fmt: skip
    taken = {row.partition for row in rows}
    for partition in sorted(
        partition for partition, log in logs.items() if partition not in taken and log.end > log.start
    ):
        fine = False
        yield Finding(check, ERROR, f"{topic.topic}[{partition}] holds records, and no worker has ever taken it over", "has the topic just grown? Workers take it over within three times FQLSTREAM_KAFKA__TOPIC_LOOK_MS; if it stays so: does one run, and what does its log say?")  # fmt: skip
    behind = sum(max(0, logs[row.partition].end - row.fence - 1) for row in rows if row.partition in logs)
    if fine:
        yield Finding(check, OK, f"{topic.topic}: {behind} records are not durable in ClickHouse yet", facts={"behind_records": behind})  # fmt: skip


def of_group(group: GroupLag, limits: DoctorSettings) -> Iterator[Finding]:
    """Judge the workers' consumer group by the rules of `fqlstream lag`, and by age: one look sees no trend."""
    total = group.total
    facts = {"members": group.member_count, "lag_records": total.lag_records, "lag_seconds": total.lag_seconds}
    seconds = f", the oldest for {total.lag_seconds:.0f} s" if total.lag_seconds else ""
    words = f"{group.group}: {group.member_count} members, {total.lag_records or 0} records behind{seconds}"
    if not group.member_count:
        yield Finding("group", ERROR, f"{words}: no worker runs", "start one: fqlstream worker", facts)
        return
    worse = [each for each in group.partitions if each.status not in {None, Status.OK}]
    for each in worse:
        severity = WARN if each.status is Status.WARN else ERROR
        yield Finding("group", severity, f"{each.topic}[{each.partition}] {each.status}: {each.why}", "see fqlstream lag --watch and the log of its worker")  # fmt: skip
    if not worse and (total.lag_seconds or 0) > limits.lag_s_max:
        yield Finding("group", WARN, words, "it catches up or falls behind: fqlstream lag --watch shows which; as many workers help as there are partitions", facts)  # fmt: skip
    elif not worse:
        yield Finding("group", OK, words, facts=facts)


def of_migrations(pending: Sequence[str]) -> Iterator[Finding]:
    """Judge ClickHouse's tables."""
    if pending:
        yield Finding("schema", ERROR, f"not applied: {', '.join(pending)}", "apply them: fqlstream schema apply")
    else:
        yield Finding("schema", OK, "every table is as this release needs it")


def of_clocks(skew_ms: float, uncertainty_ms: float, ahead_ms: int | None, limits: DoctorSettings) -> Iterator[Finding]:
    """Judge clocks: ClickHouse's against ours, known to within an uncertainty, and workers' against ClickHouse's."""
    check, most_ms = "clock", limits.clock_skew_ms_max
    facts = {"clickhouse_minus_here_ms": round(skew_ms), "uncertainty_ms": round(uncertainty_ms), "workers_ahead_ms": ahead_ms}  # fmt: skip
    do = "run a time service (chrony, systemd-timesyncd) on every machine: idle partitions and lateness go by clocks"
    if abs(skew_ms) - uncertainty_ms > most_ms:
        yield Finding(check, WARN, f"ClickHouse's clock is {abs(skew_ms) / 1000:.1f} s {'ahead of' if skew_ms > 0 else 'behind'} this machine's", do, facts)  # fmt: skip
    elif ahead_ms is not None and ahead_ms > most_ms + 1_000:
        yield Finding(check, WARN, f"a worker's clock is {ahead_ms / 1000:.1f} s ahead of ClickHouse's", do, facts)
    else:
        yield Finding(check, OK, f"ClickHouse's clock and this machine's agree to {abs(skew_ms) + uncertainty_ms:.0f} ms", facts=facts)  # fmt: skip


def of_letters(refused: Sequence[Refused], now_ms: int, limits: DoctorSettings) -> Iterator[Finding]:
    """Judge what was refused lately, reason by reason."""
    lately = _span(limits.letters_ms)
    for each in refused:
        known = _REFUSALS.get(each.code)
        what = f"{each.count} of {each.code} in {lately}, the last {_ago(now_ms - each.newest_ms)}"
        meaning = f": {known.meaning.rstrip('.')}" if known else ""
        remedy = f"{known.remedy} " if known else ""
        is_new = now_ms - each.newest_ms <= limits.letters_new_ms
        yield Finding("dead letters", WARN if is_new else NOTE, what + meaning, f"{remedy}See fqlstream dead-letters list --code {each.code}", {"code": each.code, "letters": each.count})  # fmt: skip
    if not refused:
        yield Finding("dead letters", OK, f"none in {lately}")


def of_rows(rows: Sequence[FlushRow]) -> Iterator[Finding]:
    """Say what became of rows since the beginning, and which partitions workers have died on."""
    counts = {name: sum(row.counters.get(name, 0) for row in rows) for name in ("events", "labels", "late", "duplicates", "labels_waiting")}  # fmt: skip
    words = f"{counts['events']} events and {counts['labels']} labels so far: {counts['late']} late, {counts['duplicates']} duplicates, {counts['labels_waiting']} labels without their event"  # fmt: skip
    events = counts["events"] or 1
    many = {name: counts[name] / events for name in ("late", "duplicates") if counts[name] > events // 100}
    do = "; ".join(f"{share:.0%} {name}" for name, share in many.items())
    advice = "late rows revise published values: raise the model's lateness; duplicates: does a producer send twice?"
    yield Finding("rows", NOTE if many else OK, words, f"{do}: {advice}" if many else None, counts)
    for row in rows:
        if row.suspicion.deaths:
            where = f"{row.topic}[{row.partition}]"
            yield Finding("deaths", WARN, f"{row.suspicion.deaths} workers in a row ended at {where}@{row.fence + 1} without leaving", "see their logs; a record that does it is found and set aside (DLQ019)")  # fmt: skip


def of_windows(
    models: Sequence[PublishedModel],
    rows: Sequence[FlushRow],
    counted_ms: Mapping[str, int | None],
    open_windows: Mapping[str, Sequence[tuple[int, int]]],
    catalogue: Catalogue,
    now_ms: int,
    limits: DoctorSettings,
) -> Iterator[Finding]:
    """Judge whether values keep up: time that is counted and not published, windows that should be final, time that stands still.

    `counted_ms` gives per model how far its time has come in the flush rows (Unix ms).
    """
    check, fine = "windows", 0
    flushed = {row.partition: row.version.number for row in rows}
    newest_ms = max((row.written_at_ms for row in rows), default=0)
    for model in models:
        entry = catalogue.models.get(model.model)
        if entry is None or entry.newest is None:
            continue
        lateness_ms, watermark_ms = entry.newest.windows.lateness_ms, model.watermark_ms
        spans = open_windows.get(model.model, ())
        mark_ms = counted_ms.get(model.model)
        overdue = [end for _, end in spans if mark_ms is not None and end + lateness_ms <= mark_ms]
        is_ahead = mark_ms is not None and (watermark_ms is None or mark_ms - watermark_ms > limits.publish_ms_max)
        # others' flushes move no time of this model: only once they have ceased must they be published as well
        has_ceased = now_ms - newest_ms > limits.publish_ms_max
        unpublished = has_ceased and any(
            flushed.get(partition, 0) > version for partition, version in model.vector.items()
        )
        if now_ms - model.updated_at_ms > limits.publish_ms_max and (overdue or is_ahead or unpublished):
            what = f"{model.model}: flushed {_ago(now_ms - newest_ms)}, but last published {_ago(now_ms - model.updated_at_ms)}"
            yield Finding(check, ERROR, what, "does a worker hold pane-updates, and is it in trouble? See its /health and log", {"overdue_windows": len(overdue)})  # fmt: skip
        elif watermark_ms is not None and spans and now_ms - watermark_ms > limits.watermark_delay_ms_max + lateness_ms:
            slow = _slowest(model.model, rows)
            what = f"{model.model}: its time stands at {_ago(now_ms - watermark_ms)}, {len(spans)} windows are open"
            yield Finding(check, NOTE, what, f"{slow}send newer events, or a watermark event (publish --finish) where none will come", {"open_windows": len(spans)})  # fmt: skip
        else:
            fine += 1
    if fine or not models:
        yield Finding(check, OK, f"the values of {fine} models are published as far as they are counted")


def _slowest(model: str, rows: Sequence[FlushRow]) -> str:
    """Name the partition that holds time back."""
    marks = [
        (min(marks), f"{row.topic}[{row.partition}]")
        for row in rows
        if model not in row.idle and (marks := [by[model] for by in row.watermarks.values() if model in by])
    ]
    return f"{min(marks)[1]} is furthest behind: " if marks else ""


def of_requests(kind: str, waiting: Waiting, now_ms: int, limits: DoctorSettings) -> Iterator[Finding]:
    """Judge what was asked of owners: `kind` is panes to rebuild or events to delete."""
    if not waiting.count:
        yield Finding("requests", OK, f"no {kind} wait")
        return
    waits_ms = now_ms - waiting.oldest_ms
    severity = WARN if waits_ms > limits.request_ms_max else NOTE
    do = "owners carry them out while they run: see the group above, and the workers' logs" if severity is WARN else None  # fmt: skip
    yield Finding("requests", severity, f"{waiting.count} {kind} wait, the oldest since {_span(waits_ms)}", do, {"waiting": waiting.count})  # fmt: skip


def of_code_metrics(metrics: Sequence[CodeMetric], runners: Sequence[RunnerRow]) -> Iterator[Finding]:
    """Judge metrics written in Python: whether somebody runs them, contained, and what became of their last run."""
    check = "code metrics"
    if not metrics:
        return
    able = [runner for runner in runners if not runner.code]
    for runner in runners:
        if runner.code:
            yield Finding(check, WARN, f"the runner on {runner.host} runs nothing: {runner.code} {runner.error}", "see its log, and what contains code there")  # fmt: skip
        elif runner.missing:
            yield Finding(check, WARN, f"the runner on {runner.host} contains code less than it could: {_some(runner.missing)}", "what is missing and why stands behind each name")  # fmt: skip
    if not able:
        yield Finding(check, ERROR, f"{len(metrics)} are defined, and nobody runs them", "start a runner: fqlstream code-metrics serve")  # fmt: skip
    failed = [each for each in metrics if each.error]
    for each in failed:
        yield Finding(check, WARN, f"{each.model}/{each.name} failed: {each.code} {each.error}", each.hint or "see fqlstream code-metrics list")  # fmt: skip
    if able and not failed:
        yield Finding(check, OK, f"{len(metrics)} are defined, {len(able)} runners are there", facts={"runners": len(able)})  # fmt: skip


def of_disks(disks: Sequence[Disk], limits: DoctorSettings) -> Iterator[Finding]:
    """Judge disks by the part of them that is free."""
    for disk in disks:
        if disk.total <= 0:
            continue  # an object store has no end
        free = disk.free / disk.total
        facts = {"free_bytes": disk.free, "total_bytes": disk.total}
        what = f"{disk.name}: {disk.free / 2**30:.1f} GiB free of {disk.total / 2**30:.1f} ({free:.0%})"
        if free < limits.disk_free_ratio_min:
            yield Finding("disk", ERROR if free < limits.disk_free_ratio_min / 3 else WARN, what, "make room, lower retention, or grow it: full, it stops inserts, and reading pauses", facts)  # fmt: skip
        else:
            yield Finding("disk", OK, what, facts=facts)


def of_tables(
    fullest: Sequence[tuple[str, int]],
    mutations: Sequence[tuple[str, str]],
    broken: Sequence[tuple[str, int]],
    readonly: Sequence[str],
    limits: DoctorSettings,
) -> Iterator[Finding]:
    """Judge ClickHouse's work on its tables."""
    check, crowded = "tables", [(table, most) for table, most in fullest if most > limits.parts_max]
    for table, most in crowded:
        yield Finding(check, WARN, f"{table} has {most} parts in one partition", "inserts come faster than merges: larger flushes (stream.flush_ms), or more background threads", {"parts": most})  # fmt: skip
    for table, reason in mutations:
        yield Finding(check, ERROR, f"{table}: a mutation fails: {reason[:300]}", "mend what it says, or KILL MUTATION and ask again")  # fmt: skip
    for table, count in broken:
        yield Finding(check, ERROR, f"{table}: {count} parts were broken and set aside", "check the disk; restore the parts, or repair the models: fqlstream repair")  # fmt: skip
    for table in readonly:
        yield Finding(check, ERROR, f"{table} is read-only on this replica", "has the replica lost Keeper?")
    if not crowded and not mutations and not broken and not readonly:
        most = max((most for _, most in fullest), default=0)
        yield Finding(check, OK, f"merges keep up: at most {most} parts in a partition", facts={"parts": most})


def _some(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _ago(ms: int) -> str:
    return f"{_span(ms)} ago"


def _span(ms: int) -> str:
    """Write a span of time in its two largest units."""
    seconds = max(0, ms) // 1000
    parts = [(seconds // 86_400, "d"), (seconds // 3_600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"
