"""Compile the `.proto` files into `descriptors.binpb`: `python -m millrace.rpc.compile`. Needs grpcio-tools."""

from pathlib import Path

from grpc_tools import protoc

from millrace.rpc import DESCRIPTORS, FOLDER


def compile_into(target: Path) -> None:
    """Write the descriptor set of all the sources, with what they import. Raises `ValueError` where one is wrong."""
    sources = sorted(path.name for path in FOLDER.glob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    command = ["protoc", f"-I{FOLDER}", f"-I{well_known}", "--include_imports", f"--descriptor_set_out={target}"]
    if protoc.main([*command, *sources]) != 0:
        raise ValueError("the sources do not compile; the lines above say why")


if __name__ == "__main__":
    compile_into(DESCRIPTORS)
