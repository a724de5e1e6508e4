"""Load on any models of any server that speaks TensorFlow Serving's protocols or Open Inference.

    locust -f locustfile.py --host http://127.0.0.1:8000 --model digits --rate 500 --users 512 --for 30s

Copy it: it needs `pip install './client[load]'` and nothing beside it. Without `--rate`, each of the users waits for
its answer. `--processes`, `--master` and `--worker`, the web page, `--csv` and `--html` are Locust's own.
"""

from millrace_client.load import users


class AnyModelUser(users.ModelUser):
    """Asks the models that `--model` names, one after the other."""
