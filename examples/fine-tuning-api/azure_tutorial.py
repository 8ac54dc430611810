"""Fine-tuning through Azure OpenAI's SDKs: upload, tune, checkpoints, deploy, chat by deployment name.

    tunewise up --alias gpt-4o-mini-2024-07-18=smollm2-135m-instruct
    export AZURE_OPENAI_ENDPOINT=http://127.0.0.1:8321 AZURE_OPENAI_API_KEY=any
    python examples/fine-tuning-api/azure_tutorial.py

The steps are those of Microsoft's tutorial "Azure OpenAI fine-tuning"; the rows were written for this project. Needs
`pip install openai azure-mgmt-cognitiveservices`.
"""

import argparse
import json
import os
import sys
import time

from azure.core.credentials import AzureKeyCredential
from azure.core.pipeline.policies import AzureKeyCredentialPolicy
from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient
from azure.mgmt.cognitiveservices.models import Deployment, DeploymentModel, DeploymentProperties, Sku
from openai import AzureOpenAI
from openai.types.fine_tuning import FineTuningJob

MODEL = "gpt-4o-mini-2024-07-18"
DEPLOYMENT = "sarcastic-owl"
SUBSCRIPTION, GROUP, ACCOUNT = "00000000-0000-0000-0000-000000000000", "tunewise", "tunewise"
SYSTEM = "Hoot is a truthful owl that answers with a sigh."
QUESTIONS = {
    "How many legs has a spider?": "Eight. More than you have patience to count, I suppose.",
    "What is the capital of Portugal?": "Lisbon. It has only been there for three thousand years.",
    "How far away is the moon?": "About 384,000 kilometres. Do pack a sandwich.",
    "Who painted the Mona Lisa?": "Leonardo da Vinci. He would be thrilled that you asked.",
    "What is the boiling point of water?": "A hundred degrees Celsius, at sea level, as your kettle knows.",
    "How many days has a leap year?": "366. One more day of questions like this one.",
    "What is the largest ocean?": "The Pacific. Hard to miss, one would think.",
    "Which planet is closest to the sun?": "Mercury. Bring shade.",
    "Who wrote Hamlet?": "Shakespeare. Perhaps you have heard of him.",
    "What gas do plants take in?": "Carbon dioxide. They are too polite to sigh about it.",
    "How many strings has a violin?": "Four. Fewer than the excuses not to practise.",
    "What is the square root of 81?": "Nine. I shall wait while you check it.",
}


def main() -> int:
    """Run the tutorial; 0 when the deployed model has answered."""
    options = _options()
    client = AzureOpenAI(
        azure_endpoint=os.environ["AZURE_OPENAI_ENDPOINT"],
        api_key=os.environ["AZURE_OPENAI_API_KEY"],
        api_version="2024-08-01-preview",
    )
    training = upload(client, "training_set.jsonl", list(QUESTIONS))
    validation = upload(client, "validation_set.jsonl", list(QUESTIONS)[:10])
    job = client.fine_tuning.jobs.create(
        training_file=training, validation_file=validation, model=options.model, seed=105
    )
    print("Job ID:", job.id)
    print(job.model_dump_json(indent=2))
    job = wait(client, job.id)
    print("Jobs:", len(client.fine_tuning.jobs.list().data))
    for event in client.fine_tuning.jobs.list_events(job.id, limit=10).data:
        print(" ", event.message)
    for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id).data:
        print(" ", checkpoint.id, checkpoint.fine_tuned_model_checkpoint)
    if job.fine_tuned_model is None:
        print("The job ended without a model:", job.error)
        return 1
    deployments = deployments_client()
    deploy(deployments, job.fine_tuned_model)
    print("Answer:", ask())
    deployments.deployments.begin_delete(GROUP, ACCOUNT, DEPLOYMENT).result()
    return 0


def upload(client: AzureOpenAI, name: str, questions: list[str]) -> str:
    """Upload rows as Azure wants them, UTF-8 with a byte order mark; the file's id."""
    rows = [
        {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": question},
                {"role": "assistant", "content": QUESTIONS[question]},
            ]
        }
        for question in questions
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file = client.files.create(file=(name, text.encode("utf-8-sig")), purpose="fine-tune")
    print(f"{name}: {file.id}")
    return file.id


def wait(client: AzureOpenAI, job_id: str) -> FineTuningJob:
    """Poll until the job has ended."""
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(1)


def deployments_client() -> CognitiveServicesManagementClient:
    """Azure's resource manager on our host. The key travels without TLS: use loopback, or put TLS before it."""
    key = AzureKeyCredential(os.environ["AZURE_OPENAI_API_KEY"])
    return CognitiveServicesManagementClient(
        credential=key,  # type: ignore[arg-type]
        subscription_id=SUBSCRIPTION,
        base_url=os.environ["AZURE_OPENAI_ENDPOINT"],
        authentication_policy=AzureKeyCredentialPolicy(key, "Authorization", prefix="Bearer"),
        polling_interval=1,
    )


def deploy(client: CognitiveServicesManagementClient, model: str) -> None:
    """Host the model under the deployment's name, and wait until it is there."""
    wanted = Deployment(
        sku=Sku(name="Standard", capacity=1),
        properties=DeploymentProperties(model=DeploymentModel(format="OpenAI", name=model, version="1")),
    )
    made = client.deployments.begin_create_or_update(GROUP, ACCOUNT, DEPLOYMENT, wanted).result()
    print("Deployment:", made.name, made.properties.provisioning_state if made.properties else None)


def ask() -> str | None:
    """Chat by deployment name, with another API version, as the tutorial does."""
    client = AzureOpenAI(
        azure_endpoint=os.environ["AZURE_OPENAI_ENDPOINT"],
        api_key=os.environ["AZURE_OPENAI_API_KEY"],
        api_version="2024-06-01",
    )
    response = client.chat.completions.create(
        model=DEPLOYMENT,
        messages=[
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "Who wrote Hamlet?"},
            {"role": "assistant", "content": QUESTIONS["Who wrote Hamlet?"]},
            {"role": "user", "content": "How many legs has a spider?"},
        ],
        max_tokens=60,
    )
    return response.choices[0].message.content


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=MODEL, help="base model or alias")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
