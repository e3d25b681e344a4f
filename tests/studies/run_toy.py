"""Run the toy study in a process of its own, to be killed or stopped: python run_toy.py CONF SHARDS WORK."""

import sys
from pathlib import Path

if __name__ == "__main__":
    from pipelines.errors import report_errors
    from studies.registration import register
    from studies.run import run_study

    conf, shards, work = (Path(argument) for argument in sys.argv[1:])
    with report_errors():
        run_study(register(conf, "toy"), shards, work, ("code", "data"))
