"""Benchmarks: the same work, on the same machine, ours and theirs in turn.

`python -m benchmarks list` names the workloads; `run` measures ours; each workload runs between
two operating system processes on loopback with 100-byte payloads unless it says otherwise, and
is counted at the receiver.  Absolute figures drift with the machine: compare ratios.
"""
