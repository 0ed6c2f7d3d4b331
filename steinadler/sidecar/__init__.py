"""The sidecar: entities written in any language, behind HTTP.

    caller --HTTP--> api --> node.entities --cluster--> behaviour --HTTP--> program
                                                            program --HTTP--> api (state, timers)

    service       composes one sidecar, and drains it
    serving       listens, and tells HTTP/1.1 (`http1`, on h11) from HTTP/2 (Hypercorn, by `asgi`)
    exchange      a request and its answer, for both; `sockets`: what they are read from
    api           the handler; `routes`, `openapi`: what there is; `problems`: what goes wrong;
                  `bodies`, `durations`: sans-IO, what requests mean
    app_link      is the program up, and what does it host (`app_config`, sans-IO)
    behaviour     a turn is a PUT to the program
    app_client    the pooled HTTP client towards it
    metrics       for Prometheus

The API is Dapr's for actors, so that its SDKs are the clients; docs/sidecar.md is the reference and
tells the differences.  An API of our own was refused: nobody would have a client for it.

It needs the extra `steinadler[sidecar]`.
"""

from steinadler.sidecar.service import Sidecar, SidecarSettings, open_sidecar

__all__ = ["Sidecar", "SidecarSettings", "open_sidecar"]
