"""Generates the Python client from proto/ into target/, never into the repository. As a program it prints where."""

import pathlib
from importlib import resources

from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[3]
GENERATED = ROOT / "target/clients/python"


def generate():
    """Writes the client and returns its folder."""
    GENERATED.mkdir(parents=True, exist_ok=True)
    files = sorted(str(path) for path in (ROOT / "proto").rglob("*.proto"))
    include = resources.files("grpc_tools") / "_proto"
    arguments = [f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={GENERATED}", f"--grpc_python_out={GENERATED}"]
    if protoc.main(["protoc", *arguments, *files]) != 0:
        raise RuntimeError("protoc failed")
    return GENERATED


if __name__ == "__main__":
    print(generate())
