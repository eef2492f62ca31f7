"""Orbax checkpoints: everything that a resumed run needs, complete or not there at all."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxfc.command import InputError
from jaxfc.files import OutputError
from jaxfc.types import TrainState


class Checkpoints:
    """The checkpoints of one run. Every process has one, and calls its methods at the same steps.

    A checkpoint appears in the folder under its step's number once all of it is written, so a run that is killed while
    it saves goes on from the one before.
    """

    def __init__(self, folder: Path, *, keep: int, meta: dict[str, str]):
        """Open a folder of checkpoints, or make it.

        Args:
            folder: of this run's checkpoints only.
            keep: how many of the latest to keep.
            meta: what the run is of: digests of its model and of its config. Saved with each checkpoint.

        Raises:
            InputError: the latest checkpoint in the folder has another `meta`.
            OutputError: the folder cannot be written.
        """
        logging.getLogger("absl").addFilter(_not_from_orbax)
        self.folder, self.meta = folder.absolute(), meta
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(type_handler_registry=_whole_shards()),
            "position": ocp.JsonCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        }
        with self._writing():
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        if (step := self.latest()) is not None:
            self._check_meta(step)

    def latest(self) -> int | None:
        """The step of the latest checkpoint that is complete."""
        with self._writing():
            self._manager.wait_until_finished()
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, position: dict[str, Any]):
        """Save in the background; `state` is copied first and may be donated. A step that is there already stays.

        Args:
            step: updates done.
            state: global arrays, the scalars too.
            position: the place in the data and the counters, the same on every process, as JSON holds it.

        Raises:
            OutputError: this checkpoint or the last one could not be written. Those that were complete still are.
        """
        items = {
            "state": ocp.args.PyTreeSave(state),
            "position": ocp.args.JsonSave(position),
            "meta": ocp.args.JsonSave(self.meta),
        }
        with self._writing():
            if step not in self._manager.all_steps():
                self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state and the position at a step.

        Args:
            step: of a checkpoint that is there.
            like: arrays, or their descriptions, with the shapes, types and placements wanted; the mesh may be another
                than the one that it was saved from.

        Raises:
            InputError: the checkpoint is of another model, config, architecture or optimizer.
        """
        self._check_meta(step)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        self._check_arrays(step, like)
        placed = ocp.checkpoint_utils.construct_restore_args(like)
        items = {"state": ocp.args.PyTreeRestore(like, restore_args=placed), "position": ocp.args.JsonRestore()}
        found = self._manager.restore(step, args=ocp.args.Composite(**items))
        return found.state, found.position

    def reached_preemption(self, step: int) -> bool:
        """Whether the machine is about to be taken (SIGTERM to any process): save, `finish` and leave.

        True at the same step on every process. jax.distributed takes the signal; without it, SIGTERM ends the process.
        """
        return self._manager.reached_preemption(step)

    def finish(self):
        """Wait until the last checkpoint is complete, and let go of the folder.

        Raises:
            OutputError: it could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()
        self._manager.close()

    def _check_meta(self, step: int):
        found = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        faults = [
            f"its {name} is {found.get(name)}, this run's is {self.meta.get(name)}."
            for name in sorted(found | self.meta)
            if found.get(name) != self.meta.get(name)
        ]
        if faults:
            lines = [f"{self.folder}: the checkpoint of step {step} is not of this run:", *faults]
            raise InputError(
                "\n  ".join([*lines, "Give the run a folder of its own, or what the checkpoint was made with."])
            )

    def _check_arrays(self, step: int, like: TrainState):
        stored = jax.tree.leaves(self._manager.item_metadata(step).state.tree)
        found = {leaf.name: _description(leaf) for leaf in stored}
        wanted = {
            jax.tree_util.keystr(path, simple=True, separator="."): _description(leaf)
            for path, leaf in jax.tree.leaves_with_path(like)
        }
        faults = [
            f"{name}: found {found.get(name, 'nothing')}; this run has {wanted.get(name, 'nothing')}."
            for name in sorted(found | wanted)
            if found.get(name) != wanted.get(name)
        ]
        if faults:
            head = f"{self.folder}: the checkpoint of step {step} is of another architecture or optimizer:"
            raise InputError("\n  ".join([head, *faults]))

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except (OSError, ValueError) as error:
            # TensorStore reports what the file system refused as a ValueError that names the system's error code.
            if not isinstance(error, OSError) and "os_error_code" not in str(error):
                raise
            raise OutputError(
                f"{self.folder}: a checkpoint could not be written ({error}). Those before it are complete; "
                "make room or give another folder, and the run goes on from the latest."
            ) from None


def _whole_shards():
    """How arrays are written: each shard by one of the devices that hold it.

    Orbax would else cut a shard into as many slices as there are copies, with a small program for each shape, which a
    run would compile at its first checkpoint.
    """
    handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    return ocp.type_handlers.create_type_handler_registry((jax.Array, handler))


def _description(leaf) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _not_from_orbax(record: logging.LogRecord) -> bool:
    # What Orbax logs from its threads, with tracebacks, `save` and `finish` raise as well.
    return "/orbax/" not in record.pathname
