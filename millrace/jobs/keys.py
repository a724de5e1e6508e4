"""Every key in the jobs' Redis, written once. RQ's own keys begin with "rq:".

key                              type    holds
millrace:jobs                    zset    every job's id, by when it was submitted (seconds since 1970)
millrace:jobs:in:STATE           zset    ids of the jobs in that state, by since when (seconds since 1970)
millrace:jobs:counts             hash    "KIND STATE" -> how many jobs
millrace:jobs:rows               hash    kind -> rows that finished parts have done, ever
millrace:jobs:uploads            set     "TOKEN/NAME" of each upload that a job has
millrace:jobs:kinds              hash    name of a kind that a jobs program has -> until when that is known
millrace:jobs:sweeper            string  which jobs program looks after units now; expires
millrace:jobs:calls              zset    webhooks that are still to be made: id, by when to try next
millrace:job:ID                  hash    the job's record
millrace:job:ID:plan             string  how the job is cut, as JSON (the jobs program's own)
millrace:job:ID:done             hash    unit -> what it found out, as JSON
millrace:job:ID:progress         hash    unit in work -> "ROWS ERRORS" so far
millrace:job:ID:tries            hash    unit -> how many processes died of it; "webhook" -> how often it was called;
                                           "UNIT waits" -> since when it waits for its model
millrace:job:ID:claim:UNIT       string  who works on the unit; expires in seconds unless that is renewed
millrace:job:ID:logs             stream  the last 1,000 lines of the log: "text"
"""

from dataclasses import dataclass

INDEX = "millrace:jobs"
IN_STATE = "millrace:jobs:in:"  # and the state
COUNTS = "millrace:jobs:counts"
ROWS = "millrace:jobs:rows"
UPLOADS = "millrace:jobs:uploads"
KINDS = "millrace:jobs:kinds"
SWEEPER = "millrace:jobs:sweeper"
CALLS = "millrace:jobs:calls"
RQ_QUEUE = "millrace-jobs"
LOG_LINES = 1000


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The keys of one job."""

    id: str

    @property
    def record(self) -> str:
        """The record."""
        return f"millrace:job:{self.id}"

    @property
    def plan(self) -> str:
        """How the job is cut."""
        return f"{self.record}:plan"

    @property
    def done(self) -> str:
        """The finished units."""
        return f"{self.record}:done"

    @property
    def progress(self) -> str:
        """The progress of units in work."""
        return f"{self.record}:progress"

    @property
    def tries(self) -> str:
        """What was tried in vain."""
        return f"{self.record}:tries"

    @property
    def logs(self) -> str:
        """The log."""
        return f"{self.record}:logs"

    def claim(self, unit: str) -> str:
        """Who works on a unit."""
        return f"{self.record}:claim:{unit}"

    @property
    def all(self) -> tuple[str, ...]:
        """What is deleted with the job; claims expire."""
        return (self.record, self.plan, self.done, self.progress, self.tries, self.logs)
