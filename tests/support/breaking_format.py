"""Makes the format of `breaking.py` known to `worker.backends`, where it is imported: in model processes alone."""

from tests.support import breaking
from worker import backends

backends.FORMATS["breaking"] = (breaking.FILE, breaking.__name__, "numpy")
