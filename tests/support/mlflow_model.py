"""Saves a model of MLflow's: `python -m tests.support.mlflow_model FOLDER`.

Its answer to the columns `a` and `b` is their `sum`, and a `size`: "high" where the sum is above 10, else "low".
"""

import sys

import mlflow.pyfunc
import pandas as pd
from mlflow.models import infer_signature


class Sum(mlflow.pyfunc.PythonModel):
    """See the module."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> pd.DataFrame:
        """See `PythonModel`."""
        total = model_input["a"] + model_input["b"]
        return pd.DataFrame({"sum": total, "size": total.map(lambda each: "high" if each > 10 else "low")})


if __name__ == "__main__":
    asked = pd.DataFrame({"a": [1.0], "b": [2]})
    signature = infer_signature(asked, Sum().predict(None, asked))
    mlflow.pyfunc.save_model(sys.argv[1], python_model=Sum(), signature=signature, pip_requirements=["pandas"])
