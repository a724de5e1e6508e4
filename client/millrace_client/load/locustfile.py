"""The locustfile of `millrace load`."""

from millrace_client.load import users


class AnyModelUser(users.ModelUser):
    """Asks the models that `--model` names."""
