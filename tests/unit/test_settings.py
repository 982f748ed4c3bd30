"""Settings: read once, from the environment and overrides; every one says what it is for; secrets are never shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from fqlstream.errors import SettingsError
from fqlstream.settings import Settings, load


def fields(group: type[BaseModel] = Settings, above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in group.model_fields.items():
        yield f"{above}{name}", field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{name}.")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, _ in fields():
        monkeypatch.delenv(f"FQLSTREAM_{name.upper().replace('.', '__')}", raising=False)


@pytest.mark.parametrize(("name", "field"), list(fields()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_setting_says_what_it_is_for(name: str, field: FieldInfo) -> None:
    assert field.description, name
    assert field.description[-1] in ".?", name
    assert not field.is_required(), "nothing has to be set before anything runs"


@pytest.mark.parametrize(("name", "field"), list(fields()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_number_is_bounded(name: str, field: FieldInfo) -> None:
    if field.annotation is int and not name.endswith("seed"):
        assert any(type(limit).__name__ in ("Ge", "Gt") for limit in field.metadata), f"{name} may be anything"


def test_the_environment_is_read_and_an_override_is_stronger(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().stream.flush_ms == Settings().stream.flush_ms
    monkeypatch.setenv("FQLSTREAM_STREAM__FLUSH_MS", "123")
    monkeypatch.setenv("FQLSTREAM_DATA", "elsewhere")
    assert (load().stream.flush_ms, load().data) == (123, Path("elsewhere"))
    assert load().stream.label_flush_ms == Settings().stream.label_flush_ms, "one of a group leaves the others"
    assert load(stream={"flush_ms": 77}, data=Path("here")).stream.flush_ms == 77


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("FQLSTREAM_STREAM__FLUSH_MS", "soon", "valid integer"),
        ("FQLSTREAM_STREAM__FLUSH_MS", "-1", "greater than"),
        ("FQLSTREAM_LOCAL__KAFKA_PORT", "70000", "less than or equal to 65535"),
        ("FQLSTREAM_FQL__NULL_CONDITION", "maybe", "'else' or 'null'"),
        ("FQLSTREAM_STREAM__FLUSHMS", "1", "Extra inputs"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=re.escape(said)) as caught:
        load()
    assert (caught.value.code, variable in caught.value.message) == ("SET001", True)
    assert caught.value.hint


def test_a_wrong_secret_is_not_part_of_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FQLSTREAM_KAFKA__SASL_PASSWORD", "hush-hush")
    monkeypatch.setenv("FQLSTREAM_KAFKA__SESSION_TIMEOUT_MS", "1")
    with pytest.raises(SettingsError) as caught:
        load()
    assert "hush" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_what_is_secret_is_typed_so_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = [name for name, field in fields() if re.search(r"password|secret|token|(^|\.|_)key$", name)]
    assert {"kafka.sasl_password", "store.password"} <= set(secret)
    for name in secret:
        monkeypatch.setenv(f"FQLSTREAM_{name.upper().replace('.', '__')}", "hush-hush")
    settings = load()
    for name in secret:
        group, _, of = name.partition(".")
        assert isinstance(value := getattr(getattr(settings, group), of), SecretStr), name
        assert value.get_secret_value() == "hush-hush"
    assert "hush" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_settings_are_values() -> None:
    settings = load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.stream.flush_ms = 1
    with pytest.raises(ValidationError, match="frozen"):
        settings.data = Path()
    assert settings == load()
