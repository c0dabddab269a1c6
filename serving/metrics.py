"""Figures of the gateway for Prometheus: requests, tokens, times, routes, swaps, memory. No prompt text, ever.

Counts what app.py tells it and reads the gateway's state when asked. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import psutil
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from serving.answer import Answer
from serving.gateway import Gateway

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_STEP_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024)


class Metrics:
    """Counters of one gateway, in a registry of their own, so that two gateways in one process don't mix."""

    def __init__(self, gateway: Gateway) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("branchwise_requests", "HTTP requests by address and status", ["endpoint", "status"], registry=self._registry)
        self._answers = Counter("branchwise_answers", "answers by node and how they ended", ["node", "finish_reason"], registry=self._registry)
        self._tokens = Counter("branchwise_tokens", "tokens read and written", ["node", "kind"], registry=self._registry)
        self._abstentions = Counter("branchwise_abstentions", "routes that stopped above an expert", registry=self._registry)
        self._queue = Histogram("branchwise_queue_seconds", "wait for a slot", buckets=_SECONDS, registry=self._registry)
        self._route = Histogram("branchwise_route_seconds", "routing", buckets=_SECONDS, registry=self._registry)
        self._first = Histogram("branchwise_first_token_seconds", "arrival to first text", buckets=_SECONDS, registry=self._registry)
        self._step = Histogram("branchwise_inter_token_seconds", "mean time between tokens of an answer", buckets=_STEP_SECONDS, registry=self._registry)
        self._registry.register(_State(gateway))

    def request(self, endpoint: str, status: int) -> None:
        """Count a finished request. endpoint: the address as it is in the API, so that the number of labels is bounded."""
        self._requests.labels(endpoint, str(status)).inc()

    def answer(self, answer: Answer) -> None:
        """Count a finished answer."""
        end = answer.end
        self._answers.labels(answer.node, answer.ending).inc()
        self._route.observe(answer.timing.route_s)
        if answer.route.abstained:
            self._abstentions.inc()
        if answer.timing.first is not None:
            self._first.observe(answer.timing.first - answer.timing.arrived)
        if end is None:
            return
        self._queue.observe(end.queue_s)
        self._tokens.labels(answer.node, "prompt").inc(end.prompt_tokens)
        self._tokens.labels(answer.node, "completion").inc(end.completion_tokens)
        if end.completion_tokens > 1 and answer.timing.first is not None and answer.timing.ended is not None:
            self._step.observe((answer.timing.ended - answer.timing.first) / (end.completion_tokens - 1))

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _State:
    """What the gateway holds at the moment of asking."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """Gauges, read now."""
        gateway = self._gateway
        snapshot = gateway.snapshot
        device = GaugeMetricFamily("branchwise_device", "1 for the device that answers, with its name and why it is used",
                                   labels=["kind", "name", "reason"])
        device.add_metric([gateway.device.kind, gateway.device.name, gateway.device.reason], 1)
        yield device
        yield GaugeMetricFamily("branchwise_resident_memory_bytes", "memory of this process", value=psutil.Process().memory_info().rss)
        yield GaugeMetricFamily("branchwise_running_answers", "answers under way", value=gateway.running)
        yield GaugeMetricFamily("branchwise_swaps", "snapshots put in place since the start", value=gateway.swaps)
        yield GaugeMetricFamily("branchwise_generation", "generation of the pointer that is served", value=snapshot.generation if snapshot else 0)
        busy = GaugeMetricFamily("branchwise_busy_slots", "requests being decoded", labels=["node", "version"])
        waiting = GaugeMetricFamily("branchwise_waiting_requests", "requests waiting for a slot", labels=["node", "version"])
        memory = GaugeMetricFamily("branchwise_node_memory_bytes", "weights and cache of a loaded node", labels=["node", "version"])
        for resident, model in gateway.pool.loaded():
            capacity, labels = model.capacity(), [resident.name, resident.version]
            busy.add_metric(labels, capacity.busy)
            waiting.add_metric(labels, capacity.waiting)
            memory.add_metric(labels, capacity.memory_bytes)
        yield from (busy, waiting, memory)
