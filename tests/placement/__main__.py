"""Run the passes on the fake device and print, as JSON, what went wrong in each: pass → a traceback, "" for none.

python -m tests.placement FOLDER [PASS …]
"""

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.placement import fake
from tests.placement.passes import DEFECTS, PASSES, Inputs


def main() -> None:
    """Record each pass on the CPU, then run it on the fake device."""
    root, names = Path(sys.argv[1]), sys.argv[2:] or [*PASSES, *DEFECTS]
    given = Inputs(root)
    fake.register()
    faults: dict[str, str] = {}
    for name in names:
        began = time.monotonic()
        calls = fake.recorded(at(given, name, root / name / "cpu"))
        middle = time.monotonic()
        try:
            fake.on_fake_device(at(given, name, root / name / fake.NAME), calls)
            faults[name] = ""
        except Exception:
            faults[name] = traceback.format_exc()
        clock = f"{middle - began:.1f} s on the CPU, {time.monotonic() - middle:.1f} s fake"
        print(f"{name}: {len(calls)} reads, {clock}", file=sys.stderr)
    print(json.dumps(faults))


def at(given: Inputs, name: str, work: Path) -> Callable[[], None]:
    """Return a pass in the folder `work`."""
    work.mkdir(parents=True)
    return lambda: (PASSES | DEFECTS)[name](given, work)


if __name__ == "__main__":
    main()
