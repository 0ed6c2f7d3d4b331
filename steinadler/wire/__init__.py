"""What two nodes say to each other, as bytes: the protocol, without I/O.

From the bottom upwards:

- `frames` cuts a byte stream into frames and back;
- `plain` and `codec` turn values into CBOR: the protocol's own, and the users' messages;
- `channels` gives every destination a queue and credit of its own;
- `session` carries them over successive connections: `sending` orders and numbers what goes out
  on the channels that `outbound` has open, `retransmission` keeps it until it has arrived,
  `receiving` checks what comes in, and `reports` is what the session tells of it;
- `handshake` is what comes before them, and `signals` what processes tell each other by them.

Nothing here reads a clock or waits; `steinadler.transport` carries the bytes.
"""
