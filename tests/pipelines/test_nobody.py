"""A user whom the machine does not know, with no home, as in a container that was started with a number."""

import os
import subprocess
import sys

from pipelines.stages_file import ROOT

ASKS = """
import pipelines
import getpass, pathlib, platformdirs
from engine.identity.records import provenance
print(provenance(pathlib.Path())["user"], pathlib.Path.home(), platformdirs.user_config_dir())
"""


def test_a_user_without_a_name_and_a_home_is_given_both() -> None:
    bare = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    command = ["unshare", "--user", "--map-user=12345", "--map-group=12345", sys.executable, "-c", ASKS]
    process = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    home = ROOT / ".cache" / "home"
    assert process.stdout.split() == ["uid12345", str(home), str(home / ".config")]


def test_one_who_has_them_keeps_them() -> None:
    asks = "import os; before = dict(os.environ); import pipelines; assert os.environ == before"
    subprocess.run([sys.executable, "-c", asks], cwd=ROOT, check=True)
