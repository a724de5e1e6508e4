"""A module that starts a thread when it is imported, as some libraries do: its process cannot be forked safely."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
