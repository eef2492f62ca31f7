"""Reinforcement learning: the loop of EGPO and GRPO."""

from jaxfc.advantages import require_signal
from jaxfc.config import TrainRL
from jaxfc.data.pipeline import Batches, open_examples
from jaxfc.engine import compile_engine, start
from jaxfc.learner import train_batch
from jaxfc.processes import from_writer
from jaxfc.programs import Programs
from jaxfc.report import write_report
from jaxfc.rewards import Judge, Judging, judging_pool, preflight, reward_metrics, shuffled, syntax_of
from jaxfc.run import Clock, HeldOut, RunFolder, floats
from jaxfc.sharding import fetch, held, place_held, share_of
from jaxfc.transcripts import write_transcripts
from jaxfc.workspace import export, open_workspace, step_key

PREFLIGHT = 64
"""Known-good completions that are judged before the first step."""


def train(config: TrainRL, *, dry_run: bool = False) -> dict[str, int | float]:
    """Train the policy; the run's folder then holds checkpoints, metrics, transcripts, model, summary and report."""
    work = open_workspace(config.model, config.mesh, config.prompt, config.lora)
    mesh, tokenizer, syntax = work.mesh, work.tokenizer, syntax_of(config.reward)
    examples = open_examples(config.data)
    preflight([examples[i] for i in range(min(PREFLIGHT, len(examples)))], tokenizer, work.prompt, syntax)
    share = share_of(mesh, config.batch * config.algorithm.oversample)
    batches = Batches(examples, config.data, work.prompt, tokenizer, batch=share.batch, seed=config.seed, share=share)
    if dry_run:
        return {}
    folder, clock, programs = RunFolder(config, work, "rl"), Clock(), Programs(config.compile_cache)
    state, sampling = start(config, work)
    engine = clock("compile", compile_engine, config, work, state, sampling, programs)
    held_out = HeldOut(config.evaluation, work, programs)
    first, state, notes = folder.resume(state, batches)
    batches.prepare()
    clock("compile", programs.finish)
    notes = notes or clock("evaluate", held_out.measure, work.policy(work.trained), "eval/before")
    entropy = config.algorithm.entropy
    bonus_is_on = entropy is not None and entropy.scale > 0

    judge = Judge(tokenizer.table, work.prompt, syntax)
    sizes = {"group_size": config.algorithm.group_size, "length": config.data.completion_length}
    with judging_pool(judge, config.reward) as pool, folder.log(first) as log:
        log.note(programs.listing())
        for step in range(first, config.steps):
            batch, policy = clock("data", next, batches), work.policy(state.params)
            prompts = place_held(mesh, batch.prompts)
            key = step_key(mesh, config.seed, step, "rollout")
            judging = Judging(batch.examples, pool, share=share, **sizes)
            constrained = clock("data", engine.constrain, batch.examples)
            given = policy, prompts, key, sampling, judging.submit, constrained
            rollouts, effort = clock("rollout", engine.sample, *given)
            seen = held(rollouts._replace(allowed=None))
            judged = clock("reward", judging.collect)
            if config.reward.shuffled:
                judged = shuffled(judged, (config.seed, step))
            rewards, cot_mask = place_held(mesh, (judged.rewards, judged.cot_mask))
            lesson = engine.choose(rewards, rollouts, cot_mask)
            taught = lesson.rollouts
            old = clock("score", engine.old, policy, taught, sampling)
            reference = clock("score", engine.reference, work.params, taught, sampling)
            key = step_key(mesh, config.seed, step, "credit")
            credit, shaping = engine.credit(lesson.rewards, lesson.cot_mask, taught.lengths, taught.scores, old, key)
            if bonus_is_on:
                require_signal(floats(shaping))
            update = train_batch(taught, old, reference, credit)
            state, learning = clock("update", engine.update, state, update, sampling, work.frozen)

            row = reward_metrics(judged, seen.lengths) | effort.metrics() | floats(shaping) | floats(learning)
            row |= constrained.metrics() if constrained else {}
            row |= clock("evaluate", held_out.curve_point, step, work.policy(state.params))
            trained = sum(int(lengths.sum()) for lengths in fetch((taught.prompts.lengths, taught.lengths)))
            row |= clock.lap(trained=trained, sampled=effort.tokens)
            row["speed/compiles"] = programs.compiles()
            log.write(step, row)
            if step % config.record_every == 0 or step == config.steps - 1:
                groups, advantages = fetch((lesson.groups, credit.advantages))
                shown = groups[: config.record_prompts], batch.examples, seen, judged, advantages
                write_transcripts(folder.path / "rollouts", step, *shown, tokenizer)
            folder.save(step + 1, state, batches, notes)
    after = clock("evaluate", held_out.measure, work.policy(state.params), "eval/after")
    export(work, state.params, folder.path)
    summary = folder.summarize(notes | after, clock, programs)
    from_writer(lambda: write_report(folder.path))
    return summary
