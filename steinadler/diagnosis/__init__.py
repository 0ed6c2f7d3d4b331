"""Diagnosis: what keeps nodes from meeting, found out from one machine; `steinadler doctor`.

An operator asks because a machine does not show up.  The checks answer in the order in which
causes lie: before the network is blamed, this machine and its credentials must be in order; before
a node is, there must be a way to it.

This machine:

    machine          versions, TLS, the clock, file descriptors
    home             whose cluster: folders, keys, certificates, dates
    credentials      takes credentials as a node would
    validity         dates of certificates
    network          interfaces, and what became of a multicast question on each
    multicast        asks that question
    names            what host names stand for

Who is about:

    search           finds whoever is there, as a node would
    knocking         asks one address who is there
    outcomes         what became of it
    shown            the certificate that somebody shows who is refused
    answers          judges what was found, and how each address answers
    neighbourhood    other clusters that are about, two nodes of one name

Those that answer:

    asking           asks each what it knows: members, the time
    cluster          judges what they say: clocks, addresses, who else is a member

The report:

    findings         what a check found
    examination      looks at everything side by side, within a time, and judges in order

Each check has two halves.  One looks (`look_...`, `knock`, `ask_members`): it does the I/O, and
returns facts, with what went wrong among them.  The other judges (`judge_...`): a pure function
from facts to findings.  So what is said of a state of the world is a table, which can be tested
without that state.

Looking makes no cluster, mends no permission, and joins nobody as a member.  A node that is
dialled sees an observer that comes and leaves.  Files that dead nodes left in the runtime folder
are cleared away, as by every command.

What was refused: to look at the packet filter's rules, which takes root and differs on every
system.  What a filter does shows in what does not arrive; and what one machine cannot see, namely
whether others reach it, the same command tells there.
"""

from steinadler.diagnosis.examination import Subject, examine
from steinadler.diagnosis.findings import Check, Diagnosis, Finding, Level, Topic

__all__ = ["Check", "Diagnosis", "Finding", "Level", "Subject", "Topic", "examine"]
