"""Models in processes of their own: what a model does to its process, it does to no other model and not to the worker.

    worker ──channel──► model process 1: instances of digits/1     forkserver.py  starts and reaps the processes
      │    ──channel──► model process 2: instances of sentiment/1  child.py       what such a process does
      │                      │ status, in shared memory            messages.py    what goes through a channel
      └──────────────────────┘                                     memory.py      what both sides see
                                                                   host.py        the worker's side of it all

The instances take their blocks from the queue themselves and answer them there: no request passes through the worker.
"""
