"""The sidecar: entities written in any language, behind HTTP.

    caller --HTTP--> api --> node.entities --cluster--> behaviour --HTTP--> program
                                                            program --HTTP--> api (state, timers)

    service       composes one sidecar, and drains it

    serving       listens, and tells HTTP/1.1 from HTTP/2
    sockets       a connected socket, read and written
    http1         HTTP/1.1, on h11
    asgi          HTTP/2, by Hypercorn
    exchange      one request and its answer, whatever version carries them

    api           the handler: a request in, the node's entities asked, the answer out
    routes        which paths and verbs there are
    openapi       the OpenAPI document of them
    bodies        what the JSON of requests means; sans-IO
    durations     times of timers and reminders, as SDKs write them; sans-IO
    problems      what goes wrong, as HTTP tells it
    metrics       for Prometheus

    app_link      is the program up, and what does it host
    app_config    what the program says of itself; sans-IO
    behaviour     a turn is a PUT to the program
    app_client    the pooled HTTP client towards it

The API is Dapr's for actors, so that its SDKs are the clients; docs/sidecar.md is the reference and
tells the differences.  An API of our own was refused: nobody would have a client for it.

It needs the extra `steinadler[sidecar]`.
"""

from steinadler.sidecar.service import Sidecar, SidecarSettings, open_sidecar

__all__ = ["Sidecar", "SidecarSettings", "open_sidecar"]
