"""What Prometheus is told: requests and turns as they are counted, all else as it then stands.

Of names that come from outside only types that are known to be hosted become labels: anybody could
make up others, without end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from steinadler.entity.behaviour import Kind
from steinadler.node import ConnectionStatistics, NodeStatistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_NODE_LEVELS = {
    "members",
    "members_lost",
    "in_minority",
    "health_score",
    "longest_block_s",
    "processes",
    "connections",
    "messages_queued",
    "calls_waiting",
    "calls_owed",
    "relayed",
}
_LINK_LEVELS = ("connected", "messages_queued", "bytes_queued", "bytes_unacknowledged")
_LINK_COUNTERS = (
    "resumptions",
    "bytes_sent",
    "bytes_received",
    "messages_sent",
    "messages_received",
    "bytes_retransmitted",
)


class Figures(Protocol):
    """Where levels are read."""

    def node(self) -> NodeStatistics: ...
    def connections(self) -> tuple[ConnectionStatistics, ...]: ...
    def active(self) -> dict[str, int]: ...
    def app_up(self) -> bool: ...


class Metrics:
    """The metrics of one sidecar, in a registry of its own."""

    def __init__(self, figures: Figures) -> None:
        self._registry = CollectorRegistry()
        self._known: set[str] = set()
        self._requests = Counter(
            "steinadler_sidecar_requests",
            "Requests to the sidecar; outcome is ok, error (the program's own), or the error code.",
            ("operation", "type", "outcome"),
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "steinadler_sidecar_request_seconds",
            "From a request to its answer.",
            ("operation",),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._turns = Counter(
            "steinadler_entity_turns",
            "Turns that the program ran; kind is call, timer or reminder.",
            ("type", "kind", "outcome"),
            registry=self._registry,
        )
        self._turn_seconds = Histogram(
            "steinadler_entity_turn_seconds",
            "The program's time for a turn.",
            ("type", "kind"),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        up = Gauge(
            "steinadler_app_up", "Whether the program is there: 1 or 0.", registry=self._registry
        )
        up.set_function(lambda: float(figures.app_up()))
        self._registry.register(_Levels(figures))

    def request(
        self, operation: str, type_: str, outcome: str, seconds: float, *, proven: bool
    ) -> None:
        """Count a request.  `proven`: its outcome shows that the type is hosted somewhere."""
        if proven:
            self._known.add(type_)
        label = type_ if type_ in self._known else ""
        self._requests.labels(operation, label, outcome).inc()
        self._request_seconds.labels(operation).observe(seconds)

    def turn(self, type: str, kind: Kind, outcome: str, seconds: float) -> None:
        """Count a turn."""
        self._turns.labels(type, kind.value, outcome).inc()
        self._turn_seconds.labels(type, kind.value).observe(seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Levels(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        active = GaugeMetricFamily(
            "steinadler_entities_active", "Entities that are active here.", labels=["type"]
        )
        for type_, count in self._figures.active().items():
            active.add_metric([type_], count)
        yield active
        node = self._figures.node()
        for field in fields(node):
            name, value = f"steinadler_node_{field.name}", float(getattr(node, field.name))
            text = f"NodeStatistics.{field.name}"
            if field.name in _NODE_LEVELS:
                yield GaugeMetricFamily(name, text, value=value)
            else:
                yield CounterMetricFamily(name, text, value=value)
        peers = [each for each in self._figures.connections() if not each.observer]
        for name in (*_LINK_LEVELS, *_LINK_COUNTERS):
            made = GaugeMetricFamily if name in _LINK_LEVELS else CounterMetricFamily
            family = made(
                f"steinadler_connection_{name}", f"ConnectionStatistics.{name}", labels=["node"]
            )
            for peer in peers:
                family.add_metric([peer.node.name], float(getattr(peer, name)))
            yield family
        round_trip = GaugeMetricFamily(
            "steinadler_connection_round_trip_seconds",
            "ConnectionStatistics.round_trip_s",
            labels=["node"],
        )
        for peer in peers:
            if peer.round_trip_s is not None:
                round_trip.add_metric([peer.node.name], peer.round_trip_s)
        yield round_trip
