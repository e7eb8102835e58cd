"""The command `dit-lab`: runs a verb and turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed while running, 2 the request was wrong, 128 + n stopped by signal n
after saving (143 for SIGTERM). A closed output or pipe (`dit-lab experiments | head -1`) changes
neither the work nor the exit code, so a training continues without its terminal. Nothing slow is
imported here, so that help is fast.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import io
import os
import pwd
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from dit_lab.config import search_path
from dit_lab.core import trust
from dit_lab.core.errors import Diverged, RequestError, StopRequested
from dit_lab.core.libraries import library_warnings_logged
from dit_lab.core.processes import keep_freed_memory
from dit_lab.core.text import say, say_lines

VERBS = {
    "train": "train a model, or resume its training; -m: a sweep",
    "sweep": "show the status of a sweep, or resume it",
    "report": "compare the runs of a sweep, or any runs",
    "sample": "draw images from a run",
    "ema": "post-hoc EMA (EDM2) of any length",
    "evaluate": "evaluate a run's samples against real images",
    "reflow": "train a second model on noise-sample pairs drawn from a run",
    "check": "check every image of a dataset before training",
    "encode": "encode a dataset into latents, for dataset=latents",
    "import": "import weights of DiT, SiT, REPA, LightningDiT or diffusers as a run",
    "export": "export a run's weights for other programs, or as one file",
    "describe": "size, compute and memory of a configuration, without training it",
    "bench": "time training, sampling, loading and start-up",
    "experiments": "list the named experiments, or all results of one",
    "reproduce": "run a named experiment again and compare with the recorded results",
    "ui": "open the MLflow page of the recorded runs",
    "runs": "list the runs; remove checkpoints or whole runs",
    "doctor": "correct the status of runs and sweeps that exited without cleanup",
}

HIDDEN = ("worker",)
"""Internal verbs, which only commands of this package start."""

MODULES = {"import": "importing"}
"""Verb -> module, for verbs that are keywords of Python."""


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are RequestErrors of one line."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; see {self.prog} --help")

    def print_help(self, file: object = None) -> None:
        say_lines(self.format_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dit-lab VERB ...` and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return answered(lambda: _dispatch(given))


def _refuse_other_bytes(arguments: Sequence[str]) -> None:
    """Raise RequestError if an argument or the working directory is not valid UTF-8."""
    for text in (*arguments, os.getcwd()):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RequestError(f"{text}: is no UTF-8 text; give the file another name") from None


def _name_the_user() -> None:
    """Set USER and HOME for users without an entry, as in some containers; libraries need both."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", str(os.getuid()))
        os.environ.setdefault("HOME", "/nonexistent")


def answered(command: Callable[[], int]) -> int:
    """Run a command, print its error in one line, and return the exit code."""
    keep_freed_memory()
    _name_the_user()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters that the encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        with library_warnings_logged():
            return command()
    except RequestError as refusal:
        say(f"dit-lab: {refusal}", sys.stderr)
        return 2
    except Diverged as found:
        say(f"dit-lab: {found}", sys.stderr)
        return 1
    except OSError as error:  # a full disk, or a folder that was removed
        say(f"dit-lab: failed: {error}", sys.stderr)
        return 1
    except StopRequested as stop:
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        return 130


def command(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `dit-lab` as a process, which exits without finalising the interpreter.

    The interpreter first joins its threads, such as one that writes a checkpoint. Then it calls the
    atexit functions in reverse order, so that `_leave` is the last one and ends the process. Native
    threads of libraries may still run then, such as one of gloo that frees tensors. If one of them
    used an interpreter that is being finalised, the process would abort (exit code 134) although
    all its work is done.
    """
    _fill_closed_streams()
    codes: list[int] = []
    atexit.register(_leave, codes)
    codes.append(main(arguments))
    sys.exit(codes[0])


def _fill_closed_streams() -> None:
    """Open closed standard streams as /dev/null.

    Otherwise the next file that is opened would get their number, and prints would go into it.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)


def _leave(codes: list[int]) -> None:
    """End the process with the exit code of `main`; without one, the interpreter ends it."""
    if not codes:
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError):  # the reader has exited, or the stream is closed
            stream.flush()
    os._exit(codes[0])


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        say_lines(_overview())
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        say(version("dit-lab"))
        return 0
    _refuse_other_bytes(arguments)
    verb, *rest = arguments
    if verb not in VERBS and verb not in HIDDEN:
        raise RequestError(f"{verb}: no such verb; allowed: {', '.join(VERBS)}")
    module = module_of(verb)
    with trust.this_command():
        code: int = module.run(
            parser_of(verb).parse_intermixed_args(trust.grant_from_arguments(rest))
        )
    return code


def module_of(verb: str) -> Any:
    """Return the module of a verb, which has `add_arguments` and `run`."""
    return importlib.import_module(f"dit_lab.cli.{MODULES.get(verb, verb)}")


def parser_of(verb: str) -> Parser:
    """Return the argument parser of a verb; the module's docstring is its help."""
    module = module_of(verb)
    parser = Parser(
        prog=f"dit-lab {verb}",
        description=module.__doc__,
        epilog=choices_text() if getattr(module, "SHOWS_CHOICES", False) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def _overview() -> str:
    verbs = "\n".join(f"  {verb:<12} {text}" for verb, text in VERBS.items())
    return (
        "usage: dit-lab VERB [KEY=VALUE ...]      dit-lab VERB --help\n\n"
        f"{verbs}\n\n"
        "first steps:\n"
        "  dit-lab train experiment=quickstart\n"
        "  dit-lab sample run=RUN out=samples.png\n\n"
        f"{choices_text()}"
    )


def choices_text() -> str:
    """Return the config groups and their members as text, from the config folders."""
    dirs = search_path.user_config_dirs()
    lines = [
        f"  {group + '=':<14} {', '.join(search_path.choices(group, dirs))}"
        for group in search_path.groups_to_choose(dirs)
    ]
    return (
        "config groups and their members:\n"
        + "\n".join(lines)
        + "\n\nall keys: dit-lab train --cfg job"
    )
