"""Workers on PostgreSQL: two of them share the jobs, and a database that goes away meanwhile is waited for."""

import time
from pathlib import Path

from jobs.nursery import Nursery
from jobs.surviving import make_place, working
from store.cluster import Cluster
from tunewise.contracts.run import BaseModelRef


def test_two_workers_train_each_job_once_though_the_database_goes_away(
    tmp_path: Path, nursery: Nursery, tiny_model: BaseModelRef, cluster: Cluster
) -> None:
    place = make_place(tmp_path, nursery, tiny_model, database_url=cluster.new_database())
    made = [place.submit() for _ in range(3)]
    with working(place), working(place):
        place.wait_for_steps(made[0], 3)
        cluster.stop()
        time.sleep(1.5)  # longer than a lease
        cluster.start()
        for job_id in made:
            assert place.wait_for(job_id, "succeeded", "failed").status == "succeeded", place.story()
            place.wait_until_released(job_id)
    for job_id in made:
        assert place.starts(job_id) == 1
        numbers = place.numbers(job_id)
        assert numbers == list(range(1, len(numbers) + 1))
        assert [model.step for model in place.models(job_id)] == [10, 20, 30]
    assert len({place.result(job_id).adapter_sha256 for job_id in made}) == 1
    place.platform.database.close()
