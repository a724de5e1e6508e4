"""Models that call other models, through the queue: a caller waits in its own process, the called works in another.

    models.py     what code is given (`millrace.model.Models`)   inputs.py   values to tensors, checked
    client.py     who is called, and for whom: over `millrace.calling`

A model process starts the link when its code calls for the first time. Nothing can wait for itself: a model that
already waits for an answer is not called again (`RequestBlock.via`), and every call ends with the deadline of the
request that it is made for.
"""
