"""Benchmarks: Steinadler beside other ways for two programs to talk, on the same machine.

    python -m benchmarks list
    python -m benchmarks run [NAME...]
    python -m benchmarks compare PEER
    python -m benchmarks.stores           the stores of entities
    python -m benchmarks.streams all      streams, and `steinadler forward` and `expose`

    workloads   what is done, in words and numbers: the same for everybody
    measuring   how a side written in Python does it and takes the time
    sides/      one file per side: ours, Erlang/OTP, and the Python peers
    running     a server and a client process for one run
    comparing   runs in turn, medians, ratios
    reporting   the table (terminal, Markdown) and the plot (SVG)

A run is two fresh operating-system processes on loopback; the client prints one JSON object.
Absolute figures drift with the machine's mood, so ours and theirs run in turn and the ratio of
each pair is what counts.  docs/performance.md has the method and the results.
"""
