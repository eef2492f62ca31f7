#!/usr/bin/env python3
"""Serve a model by OpenAI's protocol: chat completions with tools, and plain completions.

serve.py --model DIR --port N
    answers at http://127.0.0.1:N/v1; /health says when all programs are compiled, /metrics what has happened since
"""

import dataclasses
import logging
import os
import sys

from jaxfc.command import InputError, run_command
from jaxfc.config import Mesh, Model, Prompt
from jaxfc.server.settings import Limits, Sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serve:
    """A model, and how it is served."""

    model: Model
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    prompt: Prompt | None = None
    """How tools are shown and replies look; null: the one saved with the model (`prompt.yaml`), else the paper's."""
    name: str | None = None
    """By which requests call the model; null: its directory, as given."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is all of the machine's."""
    port: int = 8000
    """0 takes any that is free."""
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    limits: Limits = dataclasses.field(default_factory=Limits)
    grace_seconds: int = 30
    """After SIGTERM, in which requests under way may finish; then they are cut off."""
    access_log: bool = False
    """Whether each request is written to standard error."""
    compile_cache: str | None = "~/.cache/jaxfc"
    """Folder where compiled programs are kept for later starts, of which only the owner may write; null keeps none."""

    def __post_init__(self):
        if self.model.path is None:
            raise ValueError("model.create makes an untrained model; give --model, the directory of a trained one.")
        if self.mesh.data * self.mesh.fsdp != 1:
            raise ValueError(
                "mesh.data and mesh.fsdp split batches of training; a server splits its model over mesh.tensor alone. "
                "For more throughput start several servers behind a balancer."
            )
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port}; ports go from 0 to 65535.")
        if self.grace_seconds < 0:
            raise ValueError(f"grace_seconds is {self.grace_seconds}; it is at least 0.")


def main(config: Serve, arguments):
    """Check everything, then serve until the process is told to end."""
    check_extras()
    refuse_several_processes()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    from jaxfc.programs import Programs
    from jaxfc.server.app import make_app
    from jaxfc.server.model import Model as ServedModel
    from jaxfc.server.run import listen, read_key, run
    from jaxfc.workspace import open_workspace

    key = read_key(config.limits.api_key_variable)
    listener = listen(config.host, config.port)
    with listener:
        address, port = listener.getsockname()[:2]
        work = open_workspace(config.model, config.mesh, config.prompt)
        name = config.name or config.model.path
        if arguments.dry_run:
            return {"model": name, "host": address, "port": port}
        served = ServedModel(work, name, config.sizes, Programs(config.compile_cache))
        del work  # The model lets go of what it does not need.
        print(f"{name} at http://{address}:{port}/v1, once its programs are compiled", file=sys.stderr)
        served.start()
        try:
            app = make_app(served, config.limits, api_key=key)
            run(app, listener, grace_seconds=config.grace_seconds, access_log=config.access_log)
        finally:
            served.close()
    return {"model": name, "host": address, "port": port}


def check_extras():
    """Say what to install where the server's packages are missing."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"serving needs FastAPI and uvicorn ({error}); pip install 'jaxfc[serve]'.") from error


def refuse_several_processes():
    """A server is one process: others would have to be told of each request."""
    from jaxfc.processes import COUNT

    if os.environ.get(COUNT, "1") != "1":
        raise InputError(
            f"${COUNT} is {os.environ[COUNT]}, but a server is one process on one host; start one on each host, each "
            f"with a model of its own, and unset it."
        )


def add_arguments(parser):
    """The command line."""
    parser.add_argument("--model", metavar="DIR", dest="model.path", help="a model directory")
    parser.add_argument("--port", metavar="N", type=int, help="where to listen, 8000 if not given")
    parser.add_argument("--host", metavar="ADDRESS", help="this machine alone if not given")


if __name__ == "__main__":
    run_command(main, Serve, __doc__, extra=add_arguments)
