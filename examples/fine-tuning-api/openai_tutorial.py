"""Fine-tuning through OpenAI's own Python SDK: upload, tune, watch, ask. Only the base URL is not OpenAI's.

    tunewise up --alias gpt-4o-mini-2024-07-18=smollm2-135m-instruct
    export OPENAI_BASE_URL=http://127.0.0.1:8321/v1 OPENAI_API_KEY=any
    python examples/fine-tuning-api/openai_tutorial.py

The steps are those of the OpenAI cookbook's "How to fine-tune chat models"; the rows are the recipe assistant's.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

ROWS = Path(__file__).parent.parent / "recipe-assistant"
MODEL = "gpt-4o-mini-2024-07-18"


def main() -> int:
    """Run the tutorial; 0 when the tuned model has answered."""
    options = _options()
    client = OpenAI(organization="org-demo", project="proj-demo")
    training = upload(client, ROWS / "train.jsonl", options.rows)
    validation = upload(client, ROWS / "valid.jsonl", options.rows)
    job = client.fine_tuning.jobs.create(
        training_file=training,
        validation_file=validation,
        model=options.model,
        suffix="recipe-ner",
        hyperparameters={"n_epochs": options.epochs or "auto"},
    )
    print("Job ID:", job.id)
    print("Status:", job.status)
    job = wait(client, job.id)
    print_events(client, job.id)
    if job.fine_tuned_model is None:
        print("The job ended without a model:", job.error)
        return 1
    print("Fine-tuned model ID:", job.fine_tuned_model)
    print("Trained tokens:", job.trained_tokens)
    print_result_file(client, job)
    print("Answer:", ask(client, job.fine_tuned_model))
    return 0


def upload(client: OpenAI, path: Path, rows: int | None) -> str:
    """Upload the first rows of a file; its id."""
    lines = path.read_bytes().splitlines(keepends=True)[:rows]
    file = client.files.create(file=(path.name, b"".join(lines)), purpose="fine-tune")
    print(f"{path.name}: {len(lines)} rows, {file.id}")
    return file.id


def wait(client: OpenAI, job_id: str) -> FineTuningJob:
    """Poll until the job has ended."""
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(1)


def print_events(client: OpenAI, job_id: str) -> None:
    """The last events, oldest first."""
    events = client.fine_tuning.jobs.list_events(job_id).data
    events.reverse()
    for event in events:
        print(" ", event.message)


def print_result_file(client: OpenAI, job: FineTuningJob) -> None:
    """The first lines of the step metrics."""
    metrics = client.files.content(job.result_files[0]).text
    print("Metrics:", *metrics.splitlines()[:3], sep="\n  ")


def ask(client: OpenAI, model: str) -> str | None:
    """What the tuned model says to a recipe that it was not trained on."""
    row = json.loads((ROWS / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    response = client.chat.completions.create(model=model, messages=row["messages"][:-1], temperature=0, max_tokens=500)
    return response.choices[0].message.content


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=MODEL, help="base model or alias")
    parser.add_argument("--rows", type=int, help="use the first rows only")
    parser.add_argument("--epochs", type=int, help='instead of "auto"')
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
