"""Metrics and logs. Logs never hold generated text, prompts or keys: only counts, names and ids."""

from __future__ import annotations

import logging
import sys
from traceback import extract_tb

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from monitors.errors import UserError
from monitors.events import Recorded, StepRecord, StepReleased

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_JUDGE_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Telemetry:
    """One gateway's metrics, and the audit line of every generation."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._log = structlog.get_logger("mlrm_guard")

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mlrm_guard_{name}", text, labels, registry=self.registry)

        self.requests = counter("requests", "Requests by path and status.", "path", "status")
        self.decisions = counter(
            "decisions", "Strongest decision of a generation.", "action", "stage", "scenario"
        )
        self.endings = counter("generations", "Generations by how they ended.", "ended")
        self.corrections = counter("corrections", "Corrections made.")
        self.steps = counter("steps", "Steps judged.", "stage", "known")
        self.characters = counter(
            "characters", "Characters by channel and what became of them.", "channel", "fate"
        )
        self.unjudged = counter(
            "released_unjudged_characters", "Characters released unjudged.", "channel", "reason"
        )
        self.images = counter("images", "Images passed on, by whether they were judged.", "judged")
        self.live = Gauge(
            "mlrm_guard_live_generations", "Generations under way.", registry=self.registry
        )
        self.queue = Gauge(
            "mlrm_guard_judge_queue", "Passages waiting for a judge.", registry=self.registry
        )
        self.judge_seconds = Histogram(
            "mlrm_guard_judge_seconds",
            "From hand-over of a step to its verdict.",
            ["stage"],
            buckets=_JUDGE_SECONDS,
            registry=self.registry,
        )
        self.excursion_seconds = Histogram(
            "mlrm_guard_excursion_seconds",
            "Time a generation's text was held in excursions.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def observe(self, request_id: str, what: Recorded) -> None:
        """Count a step, or count and log an outcome."""
        if isinstance(what, StepRecord):
            known = "no" if what.verdict.unknown else "yes"
            self.steps.labels(what.stage.value, known).inc()
            self.judge_seconds.labels(what.stage.value).observe(what.verdict.ms / 1e3)
            return
        if isinstance(what, StepReleased):
            return
        stage = what.stage.value if what.stage else "none"
        scenario = what.scenario.value if what.scenario else "none"
        self.decisions.labels(what.action.value, stage, scenario).inc()
        self.endings.labels(what.ended).inc()
        self.corrections.inc(what.corrections)
        self.excursion_seconds.observe(what.excursion_seconds)
        for channel, counts in what.coverage.items():
            self.characters.labels(channel, "received").inc(counts.received)
            self.characters.labels(channel, "judged").inc(counts.judged)
            self.characters.labels(channel, "released").inc(counts.released)
            for reason, count in counts.released_unjudged.items():
                self.unjudged.labels(channel, reason).inc(count)
        self._log.info(
            "generation",
            request_id=request_id,
            action=what.action.value,
            stage=stage,
            scenario=scenario,
            reason=what.reason,
            ended=what.ended,
            steps=what.steps,
            corrections=what.corrections,
            judge_ms=round(what.judge_ms, 2),
        )

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def log_bug(error: Exception) -> None:
    """Log an error that is ours: its type and where, but no text, which may quote users."""
    where = [f"{frame.name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
    structlog.get_logger("mlrm_guard").error(
        "internal error", error=type(error).__name__, where=where[-8:]
    )


def configure_logs(level: str = "info") -> None:
    """JSON lines on stderr; called once, by the command that serves. Raises UserError."""
    if level.upper() not in _LEVELS:
        raise UserError(f"--log-level {level}: must be one of {', '.join(_LEVELS).lower()}")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
