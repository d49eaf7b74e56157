"""`python -m pipeline COMMAND`, or `digits COMMAND`: the command line, with a sentence for each expected error."""

import argparse
import logging
import os
import signal
import sys
import threading
from typing import Any

from pipeline import DELIVERY, PipelineError, __version__
from pipeline.arguments import read
from pipeline.progress import set_up_logging
from pipeline.settings import (
    BackupSettings,
    CompareSettings,
    ExportSettings,
    MigrateSettings,
    ModelSettings,
    PromoteSettings,
    PublishSettings,
    RestoreSettings,
    RollbackSettings,
    SearchSettings,
    Settings,
    TrainSettings,
    variable,
)

INTERRUPTED = 130  # the shell's exit code for Ctrl-C
REPEAT_SECONDS = 0.1
INTERRUPTION = {  # by whether the command starts over
    False: "Progress is saved; run the same command to resume.",
    True: "The same command starts over; what was finished before it remains.",
}

COMMANDS: dict[str, tuple[type[Settings], str]] = {
    "train": (TrainSettings, "train a recipe, export and prove the model, promote it if it passes the gate"),
    "compare": (CompareSettings, "train recipes over seeds; one table and one chart"),
    "search": (SearchSettings, "try recipes of a space, and write the best on validation to a file"),
    "export": (ExportSettings, "write the champion, or another version, to one ONNX file"),
    "promote": (PromoteSettings, "judge a version by the gate, and make it champion if it passes"),
    "publish": (PublishSettings, "deliver the reports that MLflow has yet to receive, and judge their versions"),
    "rollback": (RollbackSettings, "swap champion and previous; run again to undo"),
    "status": (ModelSettings, "list the versions: aliases, accuracy, verdict of the gate"),
    "backup": (BackupSettings, "write runs, models and checkpoints to one archive, while others may write"),
    "restore": (RestoreSettings, "put back runs, models and checkpoints from an archive of `backup`"),
    "migrate": (MigrateSettings, "move runs, models and artifacts to PostgreSQL and an object store, with proof"),
}


def main(arguments: list[str]) -> int:
    """Run one command.

    Returns:
        The exit code: 0, or 1 if the command failed, 2 for a wrong setting, 3 if MLflow went away and everything is
        kept for it, 130 after Ctrl-C or SIGTERM.
    """
    # By default OpenMP's threads spin while they wait for each other, and training slows down several times as soon as
    # anything else runs on the machine (docs/performance-training.md). torch reads this when it is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="From MNIST to a proven and promoted model.",
        epilog="`python -m pipeline COMMAND --help` lists the settings of a command.",
    )
    parser.add_argument("--version", action="version", version=f"digits {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, does) in COMMANDS.items():
        subparsers.add_parser(name, help=does)
    command: str = parser.parse_args(arguments[:1]).command
    set_up_logging(os.environ.get(variable("log_format"), "text"))  # errors of the settings are logged, too
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `docker stop` ends a run as Ctrl-C does
    try:
        settings: Any = read(COMMANDS[command][0], arguments[1:], command)
        set_up_logging(settings.log_format)
        # torch and MLflow take seconds to import: check the settings first
        if command in ("backup", "restore"):
            from pipeline import backup

            getattr(backup, command)(settings)
            return 0
        from pipeline.tracking.connection import translated_errors

        with translated_errors():
            if command == "migrate":  # without torch
                from pipeline.tracking.migration import migrate

                migrate(settings)
            else:
                from pipeline import commands

                getattr(commands, command)(settings)
    except PipelineError as error:
        logging.getLogger("pipeline").error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        logging.getLogger("pipeline").error("Interrupted. %s", INTERRUPTION["--fresh" in arguments])
        return INTERRUPTED
    return 0


def repeat_ignored_interrupts() -> None:
    """Repeat an interrupt that came in a destructor or a callback of a weak reference, where Python ignores exceptions.

    Without it, a signal to stop that comes at such a moment is lost, as happened during an export.
    """

    def hook(ignored: "sys.UnraisableHookArgs") -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            # Later, and not from here: what a hook raises is ignored as well.
            threading.Timer(REPEAT_SECONDS, os.kill, [os.getpid(), signal.SIGTERM]).start()
        else:
            sys.__unraisablehook__(ignored)

    if sys.platform != "win32":  # there, SIGTERM ends a process without an exception
        sys.unraisablehook = hook


def console() -> int:
    """Run the command that this process was started with: the entry point of the script `digits`."""
    repeat_ignored_interrupts()
    code = main(sys.argv[1:])
    if any(thread.name == DELIVERY for thread in threading.enumerate()):  # a request hangs, and its library may wait
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(console())
