"""The jobs program, `python -m jobs`: what RQ runs for background jobs.

program.py    an RQ worker that runs units, and the threads beside it      settings.py
units.py      one unit from its claim to its outcome                        claims.py    who works on a unit
advancing.py  which units a job needs next                                  sweeper.py   what was lost goes on
parts.py      how a job is cut                                              kinds/       one file for each kind
rows.py       rows through the queue to the models                          link.py      the queue itself
inputs.py     columns of a file as a model's inputs                         outputs.py   its outputs as columns
formats/      readers and writers                                           places.py    where files are
webhooks.py   tell that a job ended                                         expiry.py    delete what is too old
memory.py     what a part may allocate
"""
