"""Ask a Millrace model server for predictions: `Client`, `AsyncClient`, what they answer and what they raise."""

from millrace_client.batches import map_batches
from millrace_client.client import AsyncClient, Client
from millrace_client.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    InvalidResponse,
    JobFailed,
    MillraceError,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotSupported,
    Overloaded,
    PayloadTooLarge,
    ServerError,
    Unavailable,
)
from millrace_client.jobs import AsyncJob, Job
from millrace_client.jobstatus import JobStatus
from millrace_client.models import ModelMetadata, ModelStatus, TensorSpec, VersionStatus
from millrace_client.prediction import Prediction

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "InvalidRequest",
    "InvalidResponse",
    "Job",
    "JobFailed",
    "JobStatus",
    "MillraceError",
    "ModelMetadata",
    "ModelStatus",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "NotSupported",
    "Overloaded",
    "PayloadTooLarge",
    "Prediction",
    "ServerError",
    "TensorSpec",
    "Unavailable",
    "VersionStatus",
    "map_batches",
]
