"""Runs one stage of a scratch copy and writes down what of our code it executed: an oracle that knows no reach.

    python -m tests.mutation.trace PROFILE STAGE OUT.json

For each file: the functions that were entered, as (first line, qualified name); the classes that were made instances
of; the global names that entered code mentions. And each module that was imported.
"""

import json
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OURS = tuple(f"{ROOT / top}/" for top in ("engine", "kernels", "nodes", "pipelines", "studies"))
WIRING = tuple(
    str(ROOT / "pipelines" / name) for name in ("graph.py", "stages_file.py", "pipeline_registry.py", "gates/")
)
"""What finds and judges, here as in a run: no part of a stage's code."""

MODELS = "pydantic/main.py"
VALIDATORS = ("__init__", "model_validate")
MADE = ("__init__", "__new__", "<lambda>")  # what `exec` makes for dataclasses and named tuples
THIS = ("self", "cls", "_cls")


class Trace:
    """The code that has been executed since `start`."""

    def __init__(self) -> None:
        self.functions: dict[str, set[tuple[int, str]]] = defaultdict(set)
        self.names: dict[str, set[str]] = defaultdict(set)
        self.classes: set[str] = set()
        self._seen: set[CodeType] = set()

    def start(self) -> None:
        """Watch every thread from here on."""
        self._before = set(sys.modules)
        threading.settrace(self._enter)
        sys.settrace(self._enter)

    def stop(self) -> dict[str, Any]:
        """Stop watching and return the trace."""
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        modules = [name for name, module in list(sys.modules.items()) if name not in self._before and _is_ours(module)]
        return {
            "functions": {path: sorted(functions) for path, functions in sorted(self.functions.items())},
            "names": {path: sorted(functions) for path, functions in sorted(self.names.items())},
            "classes": sorted(self.classes),
            "modules": sorted(modules),
        }

    def _enter(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if code in self._seen:
            return
        path = code.co_filename
        if path.startswith(OURS) and path.endswith(".py") and not path.startswith(WIRING):
            name = path.removeprefix(f"{ROOT}/")
            self.functions[name].add((code.co_firstlineno, code.co_qualname))
            if code.co_flags & 1:  # optimised: a function's, not a module's or a class's body
                self.names[name].update(code.co_names)
        elif (path == "<string>" and code.co_name in MADE) or (
            path.endswith("pydantic/main.py") and code.co_name in VALIDATORS
        ):
            self._instance(frame)
            if path != "<string>":
                return  # the same code serves every model
        self._seen.add(code)

    def _instance(self, frame: FrameType) -> None:
        """Note a new instance of one of our dataclasses, named tuples or models."""
        names = frame.f_code.co_varnames
        if names and names[0] in THIS:
            first = frame.f_locals[names[0]]
            self._add_class(first if isinstance(first, type) else type(first))

    def _add_class(self, kind: type) -> None:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in self.classes or not _is_ours(sys.modules.get(kind.__module__)):
            return
        self.classes.add(name)
        for base in kind.__mro__[1:]:
            self._add_class(base)
        for field in getattr(kind, "__pydantic_fields__", {}).values():
            for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(part, type):
                    self._add_class(part)


def _is_ours(module: object) -> bool:
    file = str(getattr(module, "__file__", None))
    return file.startswith(OURS) and not file.startswith(WIRING)


def run_stage(profile: str, stage: str, work: Path) -> None:
    """Load, run and save a stage's nodes, as the runner does in place, without key, lock, record and gates."""
    from pipelines import gates, graph

    gates.check = lambda *_: None  # judges are no part of a stage's code
    values: dict[str, Any] = {"workspace": work}
    values |= {f"params:{name}": value for name, value in graph.parameters(profile).items()}
    work.mkdir(parents=True)
    for node in graph.stage_graph(stage).pipeline.nodes:
        inputs = {name: values[name] if name in values else graph.dataset(profile, name).load() for name in node.inputs}
        for name, value in node.run(inputs).items():
            graph.dataset(profile, name).save(value)


def main(profile: str, stage: str, out: str) -> None:
    """Trace one stage."""
    from pipelines import graph

    graph.parameters(profile)
    trace = Trace()
    trace.start()
    run_stage(profile, stage, ROOT / "data" / profile / ".work" / stage / "traced")
    Path(out).write_text(json.dumps(trace.stop()))


if __name__ == "__main__":
    main(*sys.argv[1:])
