"""The streams' conformance suite lives with the transport's tests and runs here too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "transport"))
