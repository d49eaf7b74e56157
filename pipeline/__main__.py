"""`python -m pipeline COMMAND`: reads the command and its settings, and turns each expected error into a sentence."""

import argparse
import logging
import os
import signal
import sys
from typing import Any

from pipeline import PipelineError
from pipeline.progress import set_up_logging
from pipeline.settings import CompareSettings, ExportSettings, PromoteSettings, Settings, TrainSettings, read

INTERRUPTED = 130  # the shell's exit code for it

COMMANDS: dict[str, tuple[type[Settings], str]] = {
    "train": (TrainSettings, "train a recipe, export and prove the model, promote it if it deserves it"),
    "compare": (CompareSettings, "train recipes over seeds, and put them side by side in one table and one picture"),
    "export": (ExportSettings, "write the champion, or another version, to one ONNX file"),
    "promote": (PromoteSettings, "judge a version by the gate, and make it champion if it passes"),
    "rollback": (Settings, "make the previous champion champion again"),
    "status": (Settings, "list the versions, which is champion, and why"),
}


def main(arguments: list[str]) -> int:
    """Run one command.

    Returns:
        The exit code: 0, or 1 if the command failed, or 2 if it was told something that cannot be.
    """
    # By default OpenMP's threads wait for each other without giving up the core, and training slows down several times
    # as soon as anything else runs on the machine (docs/performance-training.md). Read by torch's import.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="From MNIST to a model that deserves to be served.",
        epilog="`python -m pipeline COMMAND --help` lists the settings of a command.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, does) in COMMANDS.items():
        subparsers.add_parser(name, help=does)
    command: str = parser.parse_args(arguments[:1]).command
    set_up_logging()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `docker stop` ends a run as Ctrl-C does
    try:
        settings: Any = read(COMMANDS[command][0], arguments[1:], command)
        # torch and MLflow take seconds to import: not before the settings are known to be right
        from mlflow.exceptions import MlflowException

        from pipeline import commands

        try:
            getattr(commands, command)(settings)
        except MlflowException as error:
            raise PipelineError(f"MLflow cannot go on: {' '.join(str(error).split())}") from error
    except PipelineError as error:
        logging.getLogger("pipeline").error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        logging.getLogger("pipeline").error(
            "Interrupted: what is done is kept, and the same command goes on from there."
        )
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
