"""How long stopping takes, in one place: a parent must wait longer than its programs drain, or it cuts them off.

Told to stop, a program takes nothing new, finishes what it has for at most its drain timeout, and needs a few seconds
more to close. Programs stop one after the other, the API first: so the times of a whole stack add up.
"""

DRAIN_TIMEOUT_S = 30.0  # of the API and of a worker, by default
AFTER_DRAIN_S = 5.0  # to cut off what is still open, close connections and leave
REDIS_STOP_S = 5.0
