"""What Ray calls the states of a job: its job server does, and KubeRay, which asks it."""

from selector.engine.job import Word

OF_RAY: dict[str, Word] = {
    "PENDING": "queued",
    "RUNNING": "running",
    "STOPPED": "cancelled",
    "SUCCEEDED": "finished",
    "FAILED": "failed",
}
