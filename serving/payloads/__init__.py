"""The payload log: a sample of requests and their answers as files, to find drift with and to train on again."""
