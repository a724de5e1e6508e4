"""Background jobs: what the API, the jobs program and the command line agree on. Nothing here imports RQ or pyarrow.

    documents.py   what a caller asks for, one class per kind, and `read_document`, which validates it
    records.py     what is known of a job: `JobRecord`
    store.py       `JobStore`: submit, get, list, cancel, retry, delete, changes, logs, uploads, results
    uploads.py     a file that arrives: written to the folder in pieces, bounded, and nowhere else
    connecting.py  a client of the jobs' Redis, also behind Sentinels
    keys.py        every key in the jobs' Redis             lua/          what must happen there in one step
    units.py       RQ's form of one unit of work            settings.py   what the API and the jobs program both read

A job is cut into units: `plan` counts the rows and cuts them into parts, `part-N` scores rows, `join` writes the
result. RQ runs units; the record in Redis is the truth, and a unit may run twice without harm: it writes its file
under another name and renames it. Whoever finds a unit neither waiting nor claimed puts it into RQ's queue again.

Files are in one folder, which the API and all jobs programs share:

    uploads/TOKEN/NAME            what a caller uploaded; `JobRecord.upload` is "TOKEN/NAME"
    jobs/ID/parts/…               results of parts, until they are joined
    jobs/ID/outputs/NAME          what `JobRecord.outputs` names
"""
