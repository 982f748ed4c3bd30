"""Definition files: YAML documents in, definitions out, every complaint with its file, document and line.

Scalars are read as YAML 1.2 has them: `no`, `off` and `NO` are texts, dates and `12:30` too. (YAML 1.1, PyYAML's own
reading, makes false, dates and base-60 numbers of them, and of Norway.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import ValidationError

from fqlstream.errors import DefinitionError
from fqlstream.events.definitions import DEFINITION, Computed, Definition, ModelDefinition, Registered

#: A definition file of thousands of columns has 1 MB; more is a data file given by mistake.
CHARACTERS_MAX: Final = 8 * 2**20
#: Values of one document with every alias written out: bounds what a few nested aliases can blow up to.
NODES_MAX: Final = 500_000


def _kinds(members: Any) -> tuple[str, ...]:
    return tuple(member.model_fields["kind"].default for member in get_args(members))


#: What is computed, and what recorded metrics belong to.
COMPUTED_KINDS: Final = _kinds(Computed)
REGISTERED_KINDS: Final = _kinds(Registered)
KINDS: Final = COMPUTED_KINDS + REGISTERED_KINDS


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema; PyYAML wants loaders as classes."""


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either version of YAML would read as something else."""


_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {first: list(rows) for first, rows in yaml.SafeDumper.yaml_implicit_resolvers.items()}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]{1,30}$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
    ("merge", r"^<<$", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
# PyYAML reads 010 as eight and 1_000 as a thousand; the pattern above admits only decimal digits
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _loader, node: int(node.value))


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document of a file; `number` counts from 1."""

    source: str
    number: int
    value: dict[str, Any]
    node: yaml.Node

    def line(self, path: Sequence[str | int] = ()) -> int:
        """Give the line (from 1) where a part of the document stands, or the nearest part around it that exists."""
        node = self.node
        line = node.start_mark.line
        for step in path:
            found = _below(node, step)
            if found is not None:
                node, line = found
        return int(line) + 1

    def place(self, path: Sequence[str | int] = ()) -> str:
        """Say where: file, line and document."""
        return f"{self.source}:{self.line(path)} (document {self.number})"


def _below(node: yaml.Node, step: str | int) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((value, key.start_mark.line) for key, value in node.value if key.value == str(step)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step].start_mark.line
    return None


def read_documents(text: str, source: str) -> tuple[Document, ...]:
    """Split a text into its YAML documents; empty ones are left out.

    Raises DefinitionError for broken YAML, repeated keys, and documents that are no mappings.
    """
    if len(text) > CHARACTERS_MAX:
        message = f"{source} has {len(text)} characters; definition files may have {CHARACTERS_MAX}"
        raise DefinitionError("DEF001", message, "is it a data file? then `fqlstream publish` is the command for it")
    loader = _Loader(text)
    documents = []
    try:
        number = 0
        while loader.check_node():
            node = loader.get_node()
            number += 1
            if node is None or (isinstance(node, yaml.ScalarNode) and node.value == ""):
                continue
            _check_nodes(node, source, number)
            value = loader.construct_document(node)
            if not isinstance(value, dict):
                place = f"{source}:{node.start_mark.line + 1} (document {number})"
                raise DefinitionError("DEF002", f"{place} is no mapping", "a definition starts with `kind:`")
            documents.append(Document(source, number, value, node))
    except yaml.YAMLError as error:
        raise DefinitionError("DEF001", _broken(error, source)) from None
    except RecursionError:
        raise DefinitionError("DEF001", f"{source} is nested too deeply") from None
    finally:
        loader.dispose()
    return tuple(documents)


def _broken(error: yaml.YAMLError, source: str) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark is not None else source
    return f"{place} is no valid YAML: {getattr(error, 'problem', None) or error}"


def _check_nodes(root: yaml.Node, source: str, number: int) -> None:
    """Refuse keys that stand twice, aliases that contain themselves, and documents that aliases blow up."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        place = f"{source}:{node.start_mark.line + 1} (document {number})"
        if id(node) in open_nodes:
            raise DefinitionError("DEF001", f"{place}: an alias contains itself")
        if id(node) in sizes:
            return sizes[id(node)]
        open_nodes.add(id(node))
        children: Iterable[yaml.Node] = ()
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = next((key for index, key in enumerate(keys) if key in keys[:index] and key != "<<"), None)
            if twice is not None:
                raise DefinitionError("DEF001", f"{place}: {twice!r} stands twice in one mapping")
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1 + sum(size(child) for child in children)
        open_nodes.discard(id(node))
        if sizes[id(node)] > NODES_MAX:
            raise DefinitionError("DEF001", f"{place}: more than {NODES_MAX} values, aliases counted each time")
        return sizes[id(node)]

    size(root)


def parse_definition(document: Document) -> Definition:
    """Check one document.

    Raises DefinitionError that names every problem, one a line, each with file, line and document.
    """
    kind = document.value.get("kind")
    if kind not in KINDS:
        known = ", ".join(KINDS)
        if kind is None:
            raise DefinitionError("DEF002", f"{document.place()}: no `kind`", f"known kinds: {known}")
        close = get_close_matches(str(kind), KINDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known kinds: {known}"
        raise DefinitionError("DEF002", f"{document.place(['kind'])}: unknown kind {kind!r}", hint)
    try:
        return DEFINITION.validate_python(document.value)
    except ValidationError as error:
        problems = [_problem(document, item) for item in error.errors(include_url=False)]
        raise DefinitionError("DEF003", "\n".join(problems)) from None


def _problem(document: Document, item: Any) -> str:
    # the first step is the kind, which chose the type
    path = [step for step in item["loc"][1:] if not str(step).startswith("function-")]
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "no such key"
    where = ".".join(str(step) for step in path)
    return f"{document.place(path)}: {f'{where}: ' if where else ''}{message}"


def load_definitions(path: Path) -> tuple[Definition, ...]:
    """Read a definition file.

    Raises DefinitionError for a file that cannot be read or holds anything wrong.
    """
    return tuple(parse_definition(document) for document in read_documents(read_text(path), str(path)))


def read_text(path: Path) -> str:
    """Read a definition file as text.

    Raises DefinitionError where that fails.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DefinitionError("DEF001", f"{path} is not UTF-8: byte {error.start}") from None
    except OSError as error:
        raise DefinitionError("DEF001", f"{path} cannot be read: {error.strerror}") from None


def dump_definitions(definitions: Iterable[Definition]) -> str:
    """Write definitions as the YAML that reads back as the same; what was left at its default is left out."""
    documents = [_plain(definition) for definition in definitions]
    return str(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def dump_inline(value: Any) -> str:
    """Write a value as YAML on one line, such as a column of a model that a person is to read."""
    text = str(
        yaml.dump(
            value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
        )
    )
    return text.removesuffix("...\n").strip()


def _plain(definition: Definition) -> dict[str, Any]:
    data = definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    first: dict[str, Any] = {"kind": definition.kind}
    if isinstance(definition, ModelDefinition):
        first |= {"name": definition.name, "version": definition.version}
    return {**first, **data}
