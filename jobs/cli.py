"""The command line that all jobs share: CONFIG.yaml key=value ... [--help] [--dry-run].

Exit status: 0 done; 2 mistakes found before any work, all of them in one message; 1 a failure during the work;
130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.training.environment import prepare
from preprocessing.errors import ConfigError, RunError
from preprocessing.object_store import store_errors

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.measure.preflight import Times

_OPTIONS = ("--help", "--dry-run")
_PIPE_WIDTH = 110  # of help and tables where there is no terminal to ask


def main(
    job: Callable[[Config], object],
    doc: str,
    needs: Sequence[str] = ("data",),
    times: Callable[[], Times] | None = None,
) -> None:
    """Parse the command line, run the job and leave with its exit status.

    Args:
        job: does the work, given the checked configuration.
        doc: the job module's docstring, shown by --help.
        needs: inputs that must be there before work starts: "data", "checkpoint", "predict".
        times: brings what tells a dry run how long the job would take; None: what holds for a whole run.
    """
    sys.exit(run(job, doc, needs, sys.argv[1:], times))


def run(
    job: Callable[[Config], object],
    doc: str,
    needs: Sequence[str],
    words: Sequence[str],
    times: Callable[[], Times] | None = None,
) -> int:
    """As `main`, on given words; returns the exit status."""
    arguments, unknown = _parser(doc).parse_known_intermixed_args(words)
    if arguments.help:
        _print_help(doc)
        return 0
    try:
        config = _checked(arguments, unknown, needs)
        if arguments.dry_run:
            return _dry_run(config, times, needs)
        prepare(config.run.address)  # the job imports Ray
        job(config)
    except ConfigError as error:
        count = len(error.mistakes)
        _say(f"{count} mistake{'s' * (count > 1)}, nothing was started:", *(f"  - {line}" for line in error.mistakes))
        return 2
    except RunError as error:
        # an error from a worker arrives wrapped, with the worker's traceback as its text
        _say(f"failed: {getattr(error, 'cause', error)}")
        return 1
    except store_errors() as error:  # a disk's errors too, whose text names the file
        _say(f"failed: {type(error).__name__}: {error}")
        return 1
    except MemoryError as error:
        _say(f"failed: the memory of this machine is too small ({str(error) or 'no more was to be had'})")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; run the same command to go on")
        return 130
    return 0


def _parser(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(usage=_usage(doc), add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    return parser


def _checked(arguments: argparse.Namespace, unknown: Sequence[str], needs: Sequence[str]) -> Config:
    """The configuration, with every mistake that can be found before work starts."""
    from pipeline.config import Config  # brings torch with it
    from pipeline.configuration.resolve import resolve
    from pipeline.measure.preflight import input_mistakes

    mistakes = [_unknown_option(word) for word in unknown if word.startswith("-")]
    words = [*arguments.words, *(word for word in unknown if not word.startswith("-"))]
    files = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if not files:
        raise ConfigError([*mistakes, "no configuration file is given: CONFIG.yaml key=value ..."])
    mistakes += [f"{word} (command line): should look like key=value" for word in files[1:]]
    resolution = resolve(Path(files[0]), overrides, Config)
    mistakes += resolution.mistakes
    if resolution.config is not None and Path(files[0]).is_file():
        mistakes += input_mistakes(resolution.config, needs)
    if mistakes or resolution.config is None:
        raise ConfigError(mistakes)
    return resolution.config


def _dry_run(config: Config, times: Callable[[], Times] | None, needs: Sequence[str]) -> int:
    from pipeline.configuration.resolve import dump
    from pipeline.measure.preflight import preflight

    console = _console()
    console.print(dump(config), markup=False, highlight=False, soft_wrap=True)
    report, mistakes = preflight(config, times(), needs) if times else preflight(config, needs=needs)
    console.print(report.table())
    if mistakes:
        raise ConfigError(mistakes)
    return 0


def _print_help(doc: str) -> None:
    from pipeline.config import Config
    from pipeline.configuration.fields import print_help

    console = _console()
    console.print(f"usage: {_usage(doc)}\n\n{doc.strip().partition(chr(10) * 2)[0]}\n", markup=False, highlight=False)
    console.print(
        "  key=value   sets a field by its dotted path; values are YAML: run.seed=1 cache.size=[128,128]\n"
        "  --dry-run   prints the resolved configuration and what the run would need, and starts nothing\n"
        "  --help      this text\n\n"
        "Every field with its default and meaning:\n",
        markup=False,
        highlight=False,
    )
    print_help(Config, console)


def _usage(doc: str) -> str:
    module = next((word for word in doc.split() if word.startswith("jobs.")), "jobs.run")
    return f"python -m {module} CONFIG.yaml [key=value ...] [--dry-run] [--help]"


def _unknown_option(word: str) -> str:
    near = get_close_matches(word, _OPTIONS, n=1)
    return f"{word} (command line): there is no such option; " + (
        f"did you mean {near[0]}?" if near else f"there are {' and '.join(_OPTIONS)}"
    )


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)
