"""Gates: every table that leaves a data stage is judged by Great Expectations before it is published.

`profile_table` sums a table up in one row of statistics, with Polars and in memory flat in the number of rows;
`judge` runs the table's suite (conf/base/gates.yml) over that row; `check` does both, writes the report and
the Data Docs page, and raises if the table is refused. Importing this package loads neither Polars nor
Great Expectations.
"""

from pipelines.gates.beside import start, stop
from pipelines.gates.gate import GateRefused, GateReport, check, judge
from pipelines.gates.profile import profile_table
from pipelines.gates.suites import gated_tables

__all__ = ["GateRefused", "GateReport", "check", "gated_tables", "judge", "profile_table", "start", "stop"]
