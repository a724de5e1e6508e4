"""Python code as a model, in the test's own process: what it is given, what it returns, and what callers are told."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.artifacts.configs import ConfigError, read_triton_config
from millrace.broker.keys import Queue
from millrace.broker.memory import MemoryBroker
from millrace.protocol.errors import InvalidRequest, ModelFailed, RowErrors, Unavailable
from tests.support.codemodels import write
from tests.support.onnxmodels import FLOAT, info, node, save
from tests.support.running import ROOT
from worker import backends
from worker.backends.base import Device, LoadError
from worker.calls.models import QueueModels
from worker.loading import model as models
from worker.loading.model import Model
from worker.python.declaration import read

OTHERS = QueueModels(MemoryBroker(), "w", Queue("m", 1))
Load = Callable[..., Model]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a model of that code; what its code changes in this interpreter is undone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    monkeypatch.setitem(sys.modules, "model", sys)

    return lambda code, **files: load_from(write(tmp_path, "m", code, 1, **files))


def load_from(folder: Path, **options: Any) -> Model:
    given: dict[str, Any] = {"device": Device(), "backend": "auto", "max_batch_size": 32, "models": OTHERS}
    return models.load(folder, "m", 1, **given | options)


def run(model: Model, rows: int = 1, **inputs: Any) -> dict[str, Any]:
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return {name: array.tolist() for name, array in model.run("serving_default", arrays, rows).items()}


def test_rows_come_one_by_one_as_python_values(load: Load) -> None:
    model = load(
        """
        class Model:
            def predict(self, text: str, raw: bytes, count: int = 2) -> str:
                assert type(text) is str and type(raw) is bytes and type(count) is int
                return text * count + raw.decode()
        """
    )
    assert (model.announcement.platform, model.announcement.max_batch_size, model.instances) == ("python", 1, 1)
    assert model.announcement.notes == ("Rows run one by one: the model's code says so.",)
    text, raw = np.array([b"\xc3\xa9"], object), np.array([b"!"], object)
    assert run(model, text=text, raw=raw) == {"output": ["éé!".encode()]}
    assert run(model, text=text, raw=raw, count=np.array([3])) == {"output": ["ééé!".encode()]}
    two = {"text": np.array([b"a", b"b"], object), "raw": np.array([b"1", b"2"], object)}
    assert run(model, 2, **two) == {"output": [b"aa1", b"bb2"]}
    with pytest.raises(RowErrors, match="takes text as UTF-8"):
        model.run("serving_default", {"text": np.array([b"\xff"], object), "raw": raw}, 1)


@pytest.mark.parametrize("returned", ["3", "[3]", "np.array([3])", "{'output': np.int32(3)}", "Tensor()"])
def test_a_value_is_taken_as_python_numpy_and_pytorch_have_it(load: Load, returned: str) -> None:
    model = load(
        f"""
        import numpy as np

        class Tensor:  # as PyTorch's
            dtype = "torch.bfloat16"
            def detach(self): return self
            def cpu(self): return self
            def float(self): return np.array(3)

        class Model:
            def predict(self, x: int) -> int:
                return {returned}
        """
    )
    assert run(model, x=[1]) == {"output": [3]}


def test_a_batch_comes_as_arrays_that_may_be_written_to(load: Load) -> None:
    model = load(
        """
        import numpy as np

        class Model:
            inputs = {"x": ("FP32", (-1, 2)), "words": ("STRING", (-1,))}
            outputs = {"sum": ("FP32", (-1,)), "words": ("BYTES", (-1, 1))}
            max_batch_size = 8
            max_queue_delay_ms = 1.5

            def predict(self, x, words):
                x *= 2
                return {"sum": x.sum(axis=1, dtype=np.float64), "words": [[word.upper()] for word in words]}
        """
    )
    assert (model.batching.max_batch_size, model.batching.max_queue_delay_ms) == (8, 1.5)
    assert model.announcement.notes == ("Batches have at most 8 rows: the model's code says so.",)
    x = np.array([[1, 2], [3, 4]], np.float32)
    x.flags.writeable = False
    answer = model.run("serving_default", {"x": x, "words": np.array([b"a", b"b"], object)}, 2)
    assert answer["sum"].tolist() == [6, 14]
    assert answer["sum"].dtype == np.float32
    assert answer["words"].tolist() == [[b"A"], [b"B"]]
    assert x.tolist() == [[1, 2], [3, 4]]


def test_a_request_may_come_as_it_is(load: Load) -> None:
    model = load(
        """
        from typing import Annotated
        import numpy as np

        class Model:
            max_batch_size = 0

            def predict(
                self, x: Annotated[np.ndarray, "INT64", (2, -1)], scale: float
            ) -> Annotated[list, "FP64", (-1,)]:
                return (x.sum(axis=0) * scale).tolist()
        """
    )
    assert model.announcement.max_batch_size == 0
    assert model.announcement.notes == ("Requests are not batched: the model's code takes each one as it is.",)
    assert run(model, x=[[[1, 2, 3], [4, 5, 6]]], scale=[0.5]) == {"output": [[2.5, 3.5, 4.5]]}


def test_async_code_runs_several_requests_at_once_and_other_code_one(load: Load, tmp_path: Path) -> None:
    model = load(
        """
        import asyncio

        class Model:
            concurrency = 2

            async def load(self):
                self.both = asyncio.Barrier(2)

            async def predict(self, x: int) -> int:
                await self.both.wait()
                return x + 1
        """
    )
    assert model.instances == 2
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda i=i: answers.append(run(model, x=[i]))) for i in (1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answer["output"][0] for answer in answers) == [2, 6]
    model.close()


def test_calls_never_overlap_unless_the_class_says_that_they_may(load: Load) -> None:
    model = load(
        """
        import time

        class Model:
            inside = most = 0

            def predict(self, x: int) -> int:
                self.inside += 1
                type(self).most = max(self.most, self.inside)
                time.sleep(0.002)
                self.inside -= 1
                return self.most
        """
    )
    threads = [threading.Thread(target=lambda: [run(model, x=[1]) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run(model, x=[1]) == {"output": [1]}


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("raise InvalidRequest('no cats, please')", InvalidRequest, "no cats, please"),
        ("raise RowErrors({0: InvalidRequest('this row')})", RowErrors, "this row"),
        ("raise ValueError('own fault')", ValueError, "own fault"),
        ("return 1.5", ModelFailed, "predict returned an output 'output' that is float64 in place of INT64"),
        ("return [1, 2]", ModelFailed, r"'output' that has the shape \[2\] in place of \[1\]"),
        ("return None", ModelFailed, "'output' that is object in place of INT64"),
        ("return {'other': 1}", ModelFailed, "predict returned no 'output', which is declared"),
        ("yield 1", ModelFailed, "'output' that is object in place of INT64"),
        ("sys.exit('bye')", ModelFailed, "model 'm' failed: SystemExit: bye"),
    ],
)
def test_what_code_does_wrong_is_said(load: Load, body: str, error: type[Exception], message: str) -> None:
    for kind in ("def", "async def"):
        if kind == "async def" and ("yield" in body or "SystemExit" in message):
            continue
        model = load(
            f"""
            import sys
            from millrace.model import InvalidRequest, RowErrors

            class Model:
                {kind} predict(self, x: int) -> int:
                    {body}
            """
        )
        with pytest.raises(error, match=message):
            model.run("serving_default", {"x": np.array([1])}, 1)


def test_async_code_that_would_end_its_loop_fails_alone(load: Load) -> None:
    model = load(
        """
        import sys

        class Model:
            async def predict(self, x: int) -> int:
                return x if x else sys.exit("bye")
        """
    )
    with pytest.raises(ModelFailed, match="SystemExit: bye"):
        run(model, x=[0])
    assert run(model, x=[1]) == {"output": [1]}
    model.close()


def test_code_finds_its_folder_its_device_and_what_lies_beside_it(load: Load) -> None:
    model = load(
        """
        import pickle
        from pathlib import Path

        class Kept:
            pass

        class Model:
            def __init__(self):
                self.closed = []

            def load(self, folder: Path, device: str, models):
                self.word = (folder / "word.txt").read_text() + device + type(models).__name__
                assert type(pickle.loads(pickle.dumps(Kept()))) is Kept

            def predict(self, x: int) -> str:
                return self.word
        """,
        word="hello ",
    )
    assert run(model, x=[1]) == {"output": [b"hello cpuQueueModels"]}


def test_modules_beside_it_can_be_imported_and_nothing_is_written(load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "beside_a_model.py").write_text("WORD = 'from beside'")
    model = load("from beside_a_model import WORD\nclass Model:\n    def predict(self, x: int) -> str: return WORD")
    assert run(model, x=[1]) == {"output": [b"from beside"]}
    del sys.modules["beside_a_model"]
    assert {path.name for path in folder.rglob("*")} == {"beside_a_model.py", "model.py"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_library", r"m/1/model.py: ModuleNotFoundError \(model.py, line 1\): No module named 'no_such"),
        ("class Model:\n  def predict(self", "m/1/model.py: SyntaxError: '\\(' was never closed"),
        ("x = 1", r"must have a class Model with a method predict\(\*\*inputs\), but has none"),
        ("class A:\n  def predict(self): ...\nclass B(A): ...", "has several: A, B"),
        ("class TritonPythonModel:\n  def execute(self): ...", "is written for Triton's Python backend"),
        ("class Model:\n  def predict(self, x): ...", "class Model: input 'x': it must be a datatype and a shape"),
        (
            "class Model:\n  def load(self, folder):\n    1 / 0\n  def predict(self, x: int) -> int: ...",
            r"ZeroDivisionError \(model.py, line 3\): division by zero",
        ),
        (
            "import sys\nclass Model:\n  def load(self): sys.exit(3)\n  def predict(self, x: int) -> int: ...",
            r"SystemExit \(model.py, line 3\): 3",
        ),
        ("class Model:\n  def __init__(self, a): ...\n  def predict(self, x: int) -> int: ...", "TypeError: .*'a'"),
    ],
)
def test_code_that_cannot_be_loaded_says_why(load: Load, code: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load(code)


def test_a_load_that_depends_on_another_model_may_be_tried_again(load: Load) -> None:
    with pytest.raises(LoadError, match="no worker serves model 'other'") as raised:
        load(
            """
            class Model:
                def load(self, models): models["other"].predict(x=1)
                def predict(self, x: int) -> int: ...
            """
        )
    assert raised.value.can_retry


def test_all_that_its_requirements_lack_is_named(load: Load) -> None:
    with pytest.raises(
        LoadError, match=r"m/1/requirements.txt asks for .*: nothing-such \(not installed\); numpy<1 \("
    ):
        load("raise AssertionError('not even read')", requirements="nothing-such\nnumpy<1\nmsgspec")


def test_code_comes_before_other_formats_and_never_runs_unless_it_is_allowed(load: Load, tmp_path: Path) -> None:
    folder = save(
        tmp_path / "m" / "1",
        [node("Identity", ["x"], ["y"])],
        [info("x", FLOAT, ["n", 1])],
        [info("y", FLOAT, ["n", 1])],
    )
    code = "from pathlib import Path\nclass Model:\n  def predict(self, x: int) -> int: return x"
    assert load(code).announcement.platform == "python"
    (folder / "model.py").write_text("raise AssertionError('run')")
    with pytest.raises(LoadError, match=r"m/1/model.py is Python code, which runs only where .* --allow-code"):
        load_from(folder, models=None)
    assert load_from(folder, models=None, backend="onnx").announcement.platform == "onnxruntime_onnx"
    assert backends.needs_own_process(folder)
    assert not backends.needs_own_process(folder, "onnx")


def test_what_config_pbtxt_says_of_rows_is_left_to_the_code(load: Load, tmp_path: Path) -> None:
    load("class Model:\n  def predict(self, x: int) -> int: return x")
    (tmp_path / "m" / "config.pbtxt").write_text("max_batch_size: 8\ninstance_group [{count: 4 kind: KIND_CPU}]")
    config = read_triton_config(tmp_path / "m")
    model = load_from(tmp_path / "m" / "1", config=config)
    assert (model.batching.max_batch_size, model.instances) == (1, 1)
    assert any("the model's code says how its rows run" in note for note in model.announcement.notes)


def test_a_python_model_of_tritons_is_known_for_what_it_is(load: Load, tmp_path: Path) -> None:
    config = 'default_model_filename: "model.py"\nmax_batch_size: 8'
    load("class Model:\n  def predict(self, x: int) -> int: return x")
    (tmp_path / "m" / "config.pbtxt").write_text(config)
    assert load_from(tmp_path / "m" / "1", config=read_triton_config(tmp_path / "m")).announcement.platform == "python"
    write(tmp_path, "m", "class TritonPythonModel:\n  def execute(self, requests): ...")
    with pytest.raises(LoadError, match="is written for Triton's Python backend: give it a class Model"):
        load_from(tmp_path / "m" / "1", config=read_triton_config(tmp_path / "m"))
    (tmp_path / "m" / "config.pbtxt").write_text('backend: "python"')
    with pytest.raises(ConfigError, match="write the model as a plain class in"):
        read_triton_config(tmp_path / "m")


def test_the_class_on_the_page_is_one_that_is_understood() -> None:
    page = (ROOT / "docs/howto/serve-python-code.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    scope: dict[str, Any] = {}
    exec(code.replace("import joblib\n", ""), scope)
    declaration = read(scope["Model"])
    assert declaration.batching.max_batch_size == 64
    assert [spec.shape for spec in (*declaration.signature.inputs, *declaration.signature.outputs)] == [
        (-1, 4),
        (-1, 3),
    ]


def test_an_error_of_a_called_model_that_is_not_caught_is_the_answer(load: Load) -> None:
    model = load(
        """
        class Model:
            def load(self, models): self.models = models
            def predict(self, x: int) -> int: return self.models["gone"].predict(x=x)
        """
    )
    with pytest.raises(Unavailable, match="no worker serves model 'gone'"):
        run(model, x=[1])
