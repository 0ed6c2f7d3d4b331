"""What two nodes say to each other, as bytes: the protocol, without I/O.

Values:

    plain             the protocol's own values, as CBOR without tags
    codec             users' messages, as CBOR with a closed set of tags
    values            values beyond CBOR's own types, checked as they are read
    as_json           messages as JSON, for people and programs that speak nothing else

Before frames flow, and what they carry besides messages:

    handshake         Hello, and the rule that settles simultaneous dials
    signals           what processes and nodes tell each other that is no message

A session, from what is sent to what arrives:

    frames            cuts a byte stream into frames, and back
    channels          gives every destination a queue and credit of its own
    session           carries channels over successive connections
    sending           what goes into the next write, and in which order
    outbound          which channels to the peer are open
    batch             the numbered frames of one write, in the making
    retransmission    what was sent and may not have arrived, in case the connection breaks
    receiving         which frames of the peer are believed, and what they add up to
    quotas            how often a peer may ask for what is costly to answer
    reports           what a session reports: events and counters

Nothing here reads a clock or waits; `steinadler.transport` carries the bytes.
"""
