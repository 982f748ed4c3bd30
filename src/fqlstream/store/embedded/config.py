"""The engine's configuration files: two roles, limits, and the settings that no statement may change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

READER = "fqlstream_reader"
WRITER = "fqlstream_writer"

#: Settings that hold SQL, file names or addresses as text. ClickHouse would run or open them inside a plain SELECT, and
#: a process that runs as its user, without the server's own walls around files, must not do that for a stranger.
_FIXED_SETTINGS = (
    "additional_result_filter", "additional_table_filters", "dialect", "filter", "format_schema", "format_schema_source",
    "format_template_resultset", "format_template_row", "http_response_headers", "input_format_record_errors_file_path",
    "order", "output_format_schema", "parallel_replicas_custom_key", "polyglot_dialect", "promql_database", "promql_table",
    "rename_files_after_processing", "s3_base", "select", "sort", "url_base", "implicit_table_at_top_level",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine may use of the machine."""

    memory_ram_ratio: float
    background_threads: int
    fsync: bool


#: What chDB sets for a command line and a server does not.
_AS_A_SERVER = "<implicit_select>0</implicit_select><allow_introspection_functions>0</allow_introspection_functions>"


def _users() -> str:
    constraints = "".join(f"<{name}><const/></{name}>" for name in _FIXED_SETTINGS)
    return f"""<clickhouse>
<profiles><default>{_AS_A_SERVER}<constraints>{constraints}</constraints></default></profiles>
<quotas><default></default></quotas>
<roles>
<{READER}><grants><query>GRANT SELECT, SHOW, CHECK, dictGet ON *.*</query></grants></{READER}>
<{WRITER}><grants><query>GRANT ALL ON *.* WITH GRANT OPTION</query></grants></{WRITER}>
</roles>
<users><default><password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
<grants><query>GRANT {READER}</query><query>GRANT {WRITER}</query></grants></default></users>
</clickhouse>
"""


def _server(users: Path, limits: EngineLimits) -> str:
    fsync = int(limits.fsync)
    return f"""<clickhouse>
<users_config>{escape(str(users))}</users_config>
<user_directories><users_xml><path>{escape(str(users))}</path></users_xml></user_directories>
<max_server_memory_usage_to_ram_ratio>{limits.memory_ram_ratio}</max_server_memory_usage_to_ram_ratio>
<background_pool_size>{limits.background_threads}</background_pool_size>
<mark_cache_size>268435456</mark_cache_size>
<merge_tree>
<fsync_after_insert>{fsync}</fsync_after_insert>
<fsync_part_directory>{fsync}</fsync_part_directory>
<min_rows_to_fsync_after_merge>{fsync}</min_rows_to_fsync_after_merge>
</merge_tree>
</clickhouse>
"""


def write_config(directory: Path, limits: EngineLimits) -> Path:
    """Write the configuration that the engine reads at its start, and give its path."""
    directory.mkdir(parents=True, exist_ok=True)
    users = directory / "users.xml"
    users.write_text(_users())
    config = directory / "config.xml"
    config.write_text(_server(users.resolve(), limits))
    return config
