"""Whether what `requirements.txt` asks for is installed."""

from importlib.metadata import version
from pathlib import Path

from worker.python import requirements

NUMPY = version("numpy")


def test_all_that_is_missing_is_named_and_what_is_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("no-such-package-of-anyone\n-r requirements.txt\n")
    (tmp_path / requirements.FILE).write_text(
        f"""# comment
        numpy>=2,<3        # of which there is one
        NumPy=={NUMPY} --hash=sha256:00
        --index-url https://example.invalid/simple
        -r more.txt
        numpy<1
        msgspec \\
            >= 900
        never-asked-for ; python_version < "3"
        git+https://example.invalid/x.git
        another-package @ https://example.invalid/another.whl
        """
    )
    assert requirements.unmet(tmp_path) == [
        "no-such-package-of-anyone (not installed)",
        f"numpy<1 ({NUMPY} is installed)",
        f"msgspec >= 900 ({version('msgspec')} is installed)",
        "git+https://example.invalid/x.git (which cannot be checked: it names no package)",
        "another-package @ https://example.invalid/another.whl (not installed)",
    ]


def test_a_folder_without_the_file_asks_for_nothing(tmp_path: Path) -> None:
    assert requirements.unmet(tmp_path) == []
