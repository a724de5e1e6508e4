"""The one client of the models' queue beside the API: jobs send the rows of files with it, and models call models.

caller.py   a link, on an event loop: calls go out, and each gets its answers
call.py     what is called: rows of one model version, how they are cut, what they may take of the queue
sending.py  a call on its way into the queue
served.py   which version of a model answers
"""
