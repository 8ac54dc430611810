"""`python -m tunewise.jobs.wandb_run < RUN`: write one run of Weights & Biases to the disk, and send nothing.

A process of its own, because the package takes a second to import and keeps threads and a server of its own. What it
would gather besides the run (code, git, machine, packages, console, crash reports) is switched off; its environment is
`integrations`' to clean.
"""

import sys

import wandb

from tunewise.contracts.wandb import WandbRun


def write(told: WandbRun) -> None:
    """Write `directory/wandb/offline-run-*`.

    Raises:
        wandb.Error: the package refuses a field or cannot start.
    """
    run = wandb.init(
        mode="offline",
        dir=told.directory,
        id=told.run_id,
        project=told.asked.project,
        entity=told.asked.entity,
        name=told.asked.name,
        tags=told.asked.tags,
        config=told.config,
        settings=_quiet(),
    )
    for step in told.metrics:
        numbers = {name: number for name, number in step.items() if number is not None and name != "step"}
        run.log(numbers, step=int(step["step"] or 0))
    run.finish(exit_code=int(told.has_failed))


def _quiet() -> wandb.Settings:
    return wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        host="",
        save_code=False,
        silent=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


if __name__ == "__main__":
    write(WandbRun.model_validate_json(sys.stdin.buffer.read()))
