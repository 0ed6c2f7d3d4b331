"""The command `steinadler` itself: its subcommands, and how what they raise is told."""

from __future__ import annotations

import os
import signal
import sys

import click

from steinadler.cli.cluster import cluster
from steinadler.cli.demo import demo
from steinadler.cli.doctor import doctor
from steinadler.cli.forwarding import expose, forward
from steinadler.cli.node import node
from steinadler.cli.observing import call, members, send, whereis
from steinadler.cli.services import services
from steinadler.cli.sidecar import sidecar
from steinadler.cli.top import top


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="steinadler", message="%(prog)s %(version)s")
def root() -> None:
    """Nodes of a Python cluster: run one, look at them, talk to them.

    Credentials are in the folder that the environment variable STEINADLER_HOME names, by
    default the user's configuration folder; they are made on first use.
    """


for command in (
    *(demo, node, sidecar, expose, forward),
    *(members, services, whereis, send, call, top),
    *(doctor, cluster),
):
    root.add_command(command)


def main() -> None:
    """Run the command line and exit.  Whatever is not the user's mistake keeps its traceback."""
    try:
        code = root.main(prog_name="steinadler", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        _complain(error)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has seen enough.  Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _complain(error: click.ClickException) -> None:
    """One line, whatever the text was made of."""
    where, hint = "steinadler", ""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        where = error.ctx.command_path
        hint = f" (see '{where} --help')"
    text = " ".join(error.format_message().split())
    click.echo(f"{where}: {text}{hint}", err=True)
