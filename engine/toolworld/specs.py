"""Tool specifications by hierarchical domain evolution: category -> application -> tool (K2 paper, 3.1.1).

`domains.yml` holds the names and values, `operations.yml` the forms; this module joins them into `ToolSpec`s whose
parameters are JSON schemas. The rest of the package works on these specs, so a new domain is data, not code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engine.checked import checked
from engine.errors import UserError
from engine.yaml_file import parse_yaml, read_yaml

HERE = Path(__file__).parent
Declaration = Literal["full", "compact"]
"""How an agent's tools are declared: with everything OpenAI's format has, or without descriptions and `required`."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Operation(_Frozen):
    """What a tool can do to records, as operations.yml describes it; how it is requested and answered stands beside."""

    description: str
    arguments: tuple[str, ...]
    returns: tuple[str, ...]
    changes: bool = True
    twice: bool = False
    missing: Literal["", "value", "amount", "by"] = ""

    @property
    def works_on_field(self) -> bool:
        """Whether a tool with this operation has to name a field."""
        return "field" in (*self.arguments, *self.returns)


class FieldSpec(_Frozen):
    """One column of a record: one of `values`, a name from a `pool`, or a whole number low..high by step."""

    values: tuple[str, ...] = ()
    pool: str = ""
    low: int = 0
    high: int = 0
    step: int = 1

    @property
    def is_number(self) -> bool:
        """Whether the field holds whole numbers."""
        return not self.values and not self.pool


class ToolForm(_Frozen):
    """One tool as domains.yml defines it: an operation and the fields it works on."""

    does: str
    field: str = ""
    verb: str = ""
    from_: str = Field("", alias="from")
    to: str = ""
    holder: str = ""

    @field_validator("does")
    @classmethod
    def _is_an_operation(cls, value: str) -> str:
        if value not in tool_operations():
            raise ValueError(f"no such operation; choose one of {', '.join(tool_operations())}")
        return value

    @property
    def operation(self) -> "Operation":
        """What operations.yml says of the operation."""
        return tool_operations()[self.does]


class Application(_Frozen):
    """A small table of records and the tools that work on it."""

    entity: str
    entities: str
    key: str
    keys: tuple[str, ...]
    says: str
    fields: dict[str, FieldSpec]
    tools: dict[str, ToolForm]

    @model_validator(mode="after")
    def _tools_name_fields(self) -> "Application":
        for name, form in self.tools.items():
            for field in filter(None, (form.field, form.holder)):
                if field not in self.fields:
                    raise ValueError(
                        f"tool '{name}' works on the field '{field}', which is not among {list(self.fields)}"
                    )
            if form.operation.works_on_field and not form.field:
                raise ValueError(f"tool '{name}' does '{form.does}' and needs a field")
        return self

    def words(self, key: str) -> str:
        """Return the record named `key` in words, e.g. "room 101"."""
        return self.says.format(key=key)


class Domain(_Frozen):
    """One category of work with its applications; `role` is the job title of an agent there."""

    category: str
    role: str
    applications: dict[str, Application]


@dataclass(frozen=True)
class ToolSpec:
    """One callable tool; `parameters` is the JSON schema of an object."""

    name: str
    domain: str
    application: str
    origin: str
    description: str
    parameters: Mapping[str, Any]
    returns: str
    form: ToolForm

    @property
    def stateful(self) -> bool:
        """Whether a call may change the world."""
        return self.form.operation.changes

    def openai(self, declaration: Declaration = "full") -> dict[str, Any]:
        """Return the tool as an OpenAI tool object, which is what an agent is shown.

        The compact form leaves out what the name and the properties already say (every property is required), which
        saves a third of the tokens of a short dialogue.
        """
        function: dict[str, Any] = {"name": self.name}
        if declaration == "full":
            function |= {"description": self.description, "parameters": dict(self.parameters)}
        else:
            function["parameters"] = {name: part for name, part in self.parameters.items() if name != "required"}
        return {"type": "function", "function": function}


@cache
def operations() -> dict[str, Any]:
    """Return operations.yml: how each operation is described, requested and answered."""
    loaded: dict[str, Any] = read_yaml(HERE / "operations.yml")
    return loaded


@cache
def tool_operations() -> dict[str, Operation]:
    """Return the operations that a tool can have; the other forms of operations.yml are requests made of several."""
    return {
        name: _operation(name, form)
        for name, form in operations().items()
        if isinstance(form, dict) and "arguments" in form
    }


def _operation(name: str, form: dict[str, Any]) -> Operation:
    own = {field: form[field] for field in Operation.model_fields if field in form}
    return checked(Operation, own, f"engine/toolworld/operations.yml: {name}")


def parse_domains(text: str, source: str = "domains.yml") -> dict[str, Domain]:
    """Parse a domain description; a malformed one is a `UserError` naming `source` and the field."""
    raw = parse_yaml(text, source)
    try:
        whole = {name: _with_pools(body, raw["pools"]) for name, body in raw["domains"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source} is not a domain description ({error}); it needs `pools` and `domains`.") from error
    return {name: checked(Domain, body, f"{source}: domain {name}") for name, body in whole.items()}


def _with_pools(body: dict[str, Any], pools: dict[str, list[str]]) -> dict[str, Any]:
    """Replace the name of a pool by the pool's names."""
    applications = {}
    for name, application in body["applications"].items():
        keys = application["keys"]
        applications[name] = {**application, "keys": pools[keys] if isinstance(keys, str) else keys}
        applications[name]["fields"] = {
            field: {"values": pools[spec["pool"]]} if "pool" in spec else spec
            for field, spec in application["fields"].items()
        }
    return {**body, "applications": applications}


@cache
def load_domains() -> dict[str, Domain]:
    """Return the eight domains of domains.yml, by name."""
    return parse_domains((HERE / "domains.yml").read_text(encoding="utf-8"))


def choose_domains(names: tuple[str, ...] | list[str], source: str = "parameters/tooluse.yml") -> dict[str, Domain]:
    """Return the domains called `names` (all if empty); an unknown name is a `UserError`."""
    known = load_domains()
    for name in names:
        if name not in known:
            raise UserError(f"{source}: domains: '{name}' is not a domain; choose among {', '.join(known)}.")
    return {name: known[name] for name in (names or known)}


@cache
def load_tools() -> dict[str, ToolSpec]:
    """Return every tool of every domain by name, in the order of domains.yml."""
    tools: dict[str, ToolSpec] = {}
    for domain_name, domain in load_domains().items():
        for app_name, application in domain.applications.items():
            for name, form in application.tools.items():
                if name in tools:
                    raise UserError(f"domains.yml: the tool '{name}' appears twice; give each tool its own name.")
                tools[name] = _tool(name, form, domain_name, domain.category, app_name, application)
    return tools


def application_of(tool: ToolSpec) -> Application:
    """Return the application whose records `tool` works on."""
    return load_domains()[tool.domain].applications[tool.application]


def _tool(name: str, form: ToolForm, domain: str, category: str, app_name: str, app: Application) -> ToolSpec:
    slots = {"entity": app.entity, "entities": app.entities, "field": form.field, "Verb": form.verb.capitalize()}
    return ToolSpec(
        name=name,
        domain=domain,
        application=app_name,
        origin=f"synthetic:{category}/{domain}/{app_name}",
        description=form.operation.description.format(**slots),
        parameters=_schema(form, app),
        returns=_returns(form, app),
        form=form,
    )


def _schema(form: ToolForm, app: Application) -> dict[str, Any]:
    """Return the JSON schema of the arguments, kept short so that two to four tools fit a small context."""
    properties: dict[str, Any] = {}
    for argument in form.operation.arguments:
        match argument:
            case "amount":
                properties["amount"] = {"type": "integer"}
            case "field":
                properties[form.field] = _field_schema(app.fields[form.field])
            case "fields":
                properties |= {name: _field_schema(spec) for name, spec in app.fields.items()}
            case "key" | "holder":
                properties[app.key if argument == "key" else form.holder] = {"type": "string"}
            case _:
                properties[argument] = {"type": "string"}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _field_schema(spec: FieldSpec) -> dict[str, Any]:
    """Return the schema of a number, of a few words, or of any string where the list of words would be too long."""
    if spec.is_number:
        return {"type": "integer"}
    if len(spec.values) > 5:
        return {"type": "string"}
    return {"type": "string", "enum": list(spec.values)}


def _returns(form: ToolForm, app: Application) -> str:
    names = {"key": [app.key], "field": [form.field], "fields": [*app.fields], "entities": [app.entities]}
    return "{" + ", ".join(name for word in form.operation.returns for name in names.get(word, [word])) + "}"
