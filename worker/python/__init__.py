"""Models that are Python code: what such a model declares, and how its values become tensors and come from them.

    requirements.py  what the code needs installed     declaration.py  the tensors that it declares
    source.py        `model.py` as a module            values.py       tensors to Python values and back

`worker/backends/python.py` is the backend that is made of these.
"""
