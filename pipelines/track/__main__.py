"""`python -m pipelines.track`: import records; --serve shows MLflow's pages, --follow imports while a command runs."""

import argparse
import os
import sys

from engine.errors import UserError
from engine.remedy import command
from pipelines.errors import report_errors
from pipelines.track.follow import QUIETLY, follow_command


def main() -> None:
    """Import a profile's run records, once or while a command runs; with --serve, start the pages afterwards."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.track", description="Import run records into MLflow.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--tracking-uri", default=None, help="default: MLFLOW_TRACKING_URI, else sqlite in data/")
    parser.add_argument("--serve", action="store_true", help="then serve the comparison pages")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--follow", action="store_true", help="run the command after --, and import while it runs")
    parser.add_argument("--watch", action="store_true", help="import until standard input closes; --follow starts it")
    parser.add_argument("command", nargs="*", help="for --follow")
    arguments = parser.parse_args()
    with report_errors():
        if arguments.follow:
            follow(arguments)
        else:
            track(arguments)


def follow(arguments: argparse.Namespace) -> None:
    """Run the command with a follower beside it, and exit with its status; this process imports nothing heavy."""
    if not arguments.command:
        raise UserError("--follow has no command: write it after --, as in `--follow -- dvc repro`.")
    options = {"--env": arguments.env, "--tracking-uri": arguments.tracking_uri}
    option_words = [word for name, value in options.items() if value is not None for word in (name, value)]
    follower = [sys.executable, "-m", "pipelines.track", "--watch", *option_words]
    sys.exit(follow_command(arguments.command, follower, later=command("compare", arguments.env)))


def track(arguments: argparse.Namespace) -> None:
    """Import once, or with --watch until standard input closes, and with --serve show the pages."""
    from pipelines import gates
    from pipelines.stages_file import load_stages_file
    from pipelines.track.serve import serve
    from pipelines.track.session import Away, Session, default_uri
    from pipelines.track.watch import sum_up, watch

    profile = load_stages_file().profile(arguments.env)
    session = Session(profile, arguments.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri())
    try:
        if arguments.watch:
            watch(session, sys.stdin.buffer)
        sum_up(session, quietly=arguments.watch and sys.stdin.buffer.read() == QUIETLY)
    finally:
        gates.stop()
    if arguments.serve:
        if not session.uri.startswith("http"):
            try:
                session.require_usable()
            except Away as error:
                raise UserError(f"the pages of MLflow at {session.uri} cannot be shown: {error}.") from error
        serve(session.uri, arguments.port)


if __name__ == "__main__":
    main()
