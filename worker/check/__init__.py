"""`millrace check MODEL`: loads a model as a worker would, and says what will be served and how to ask it.

command.py    the command line: finds the models, and runs a probe for each, in a process of its own
probe.py      that process: loads the model, measures its runs, finds a request that it answers
report.py     what a probe is told, and what it reports
requests.py   the request as each protocol has it, ready to paste
text.py       a report as people read it
"""
