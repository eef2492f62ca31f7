"""Functions with planted faults, for worker processes to import; it imports no JAX."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from jaxfc.data.prompts import pieces_of
from jaxfc.rewards import Answered, Judge


class Hangs(NamedTuple):
    """A judge that never answers on a completion that holds some text."""

    judge: Judge
    text: bytes

    def __call__(self, answered: Answered):
        if self.text in b"".join(pieces_of(answered.tokens, self.judge.table)):
            time.sleep(1000)
        return self.judge(answered)


def act(item: str | int | list):
    """Do what the item says; an item that is a number is worth its square."""
    match item:
        case int():
            return item * item
        case "modules":
            return sorted(sys.modules)
        case "process":
            return os.getpid()
        case "sleep":
            time.sleep(1000)
        case "print":
            print("noise")
        case "exit":
            sys.exit(0)
        case "bug":
            raise KeyError("a planted bug")
        case "end of file":
            raise EOFError
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case ["killed at first", path]:
            if not Path(path).exists():
                Path(path).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return "done"
        case ["wait", seconds]:
            time.sleep(seconds)
            return seconds
