"""The routes of background jobs as OpenAPI has them: their parameters, and the form with a file."""

from typing import Any, get_args

from millrace.jobs.records import State

PARAMETERS: dict[str, dict[str, Any]] = {
    "job": {
        "name": "job",
        "in": "path",
        "required": True,
        "description": "The job's id: the server's, or with PUT one of the caller's own.",
        "example": "reviews-2026-11",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"},
    },
    "job_limit": {
        "name": "limit",
        "in": "query",
        "description": "How many jobs at most.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    },
    "job_state": {
        "name": "state",
        "in": "query",
        "description": "Only jobs in this state; may be given several times.",
        "schema": {"type": "array", "items": {"type": "string", "enum": list(get_args(State))}},
    },
    "job_output": {
        "name": "name",
        "in": "query",
        "description": "Which of the job's `outputs`; the first one without a name.",
        "schema": {"type": "string"},
    },
}


def form_with_file(job: dict[str, Any]) -> dict[str, Any]:
    """The body of a job that brings its file; `job` is the schema of the job."""
    return {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["job"],
                "properties": {"job": job, "input": {"type": "string", "format": "binary"}},
                "additionalProperties": False,
            },
            "encoding": {"job": {"contentType": "application/json"}},
        }
    }
