"""The engine's configuration: well-formed, with its limits, its two roles, and settings that no statement may change."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from fqlstream.store.embedded.config import READER, WRITER, EngineLimits, write_config


def parsed(path: Path) -> ET.Element:
    return ET.fromstring(path.read_text())  # noqa: S314  # our own file, written a moment ago


@pytest.mark.parametrize("name", ["plain", "with space & <sign>"])
def test_the_server_finds_its_users_wherever_the_directory_is(tmp_path: Path, name: str) -> None:
    config = write_config(tmp_path / name, EngineLimits(0.25, 3, fsync=False))
    server = parsed(config)
    users = Path(server.findtext("users_config") or "")
    assert users.is_absolute()
    assert users == (tmp_path / name / "users.xml").resolve()
    assert server.findtext("user_directories/users_xml/path") == str(users)
    assert server.findtext("max_server_memory_usage_to_ram_ratio") == "0.25"
    assert server.findtext("background_pool_size") == "3"


@pytest.mark.parametrize("fsync", [False, True])
def test_inserts_are_written_through_where_that_is_asked_for(tmp_path: Path, fsync: bool) -> None:
    server = parsed(write_config(tmp_path, EngineLimits(0.5, 1, fsync=fsync)))
    assert {element.tag: element.text for element in server.find("merge_tree") or ()} == {
        "fsync_after_insert": str(int(fsync)),
        "fsync_part_directory": str(int(fsync)),
        "min_rows_to_fsync_after_merge": str(int(fsync)),
    }


def test_a_reader_may_only_read_and_nobody_changes_what_names_files_or_holds_sql(tmp_path: Path) -> None:
    write_config(tmp_path, EngineLimits(0.5, 1, fsync=False))
    users = parsed(tmp_path / "users.xml")
    assert users.findtext(f"roles/{READER}/grants/query") == "GRANT SELECT, SHOW, CHECK, dictGet ON *.*"
    assert "GRANT ALL" in (users.findtext(f"roles/{WRITER}/grants/query") or "")
    constraints = users.find("profiles/default/constraints")
    assert constraints is not None
    assert {"url_base", "s3_base", "format_schema", "input_format_record_errors_file_path", "dialect"} <= {
        setting.tag for setting in constraints if setting.find("const") is not None
    }


def test_writing_it_again_changes_nothing(tmp_path: Path) -> None:
    limits = EngineLimits(0.5, 1, fsync=False)
    first = write_config(tmp_path, limits).read_text()
    assert write_config(tmp_path, limits).read_text() == first
