"""What the tests with Dapr's SDKs share."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sdk_stage import Stage

EXAMPLE = Path(__file__).parents[3] / "examples" / "sidecar_javascript"


@pytest.fixture(scope="session")
def node_path(pytestconfig: pytest.Config) -> Path:
    """Where the JavaScript SDK is; installed once, as the example's package-lock.json says.

    A machine without Node.js skips what needs this, and nothing else does.
    """
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"JavaScript needs Node.js: there is no {' and no '.join(missing)} in PATH")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("sidecar-javascript")
    lock = (EXAMPLE / "package-lock.json").read_bytes()
    installed = folder / "installed.json"
    if not installed.exists() or installed.read_bytes() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(EXAMPLE / name, folder / name)
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"npm ci failed: {done.stderr[-2000:]}"
        installed.write_bytes(lock)
    return folder / "node_modules"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)
