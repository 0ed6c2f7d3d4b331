"""Where the command `steinadler` begins: outside of the package, because importing that takes a
while.

Until the command line itself takes signals, Ctrl-C is to end the process as it ends any other:
Python would raise KeyboardInterrupt in the middle of whichever import was under way, and print its
traceback.  Nothing inside the package can see to that, since the package is imported first.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line and exit."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:  # else it is ignored, as nohup wants it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from steinadler.cli import main as run

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
