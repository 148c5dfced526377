"""The same global batch on one process and on several gives the same rows, but for the order of sums."""

import numpy as np
import pytest
from host_runs import ended, rows_of, start, start_several
from tiny_folder import write_folder, write_images

STEPS = ("--max_train_steps", 20, "--checkpointing_steps", 10, "--eval_steps", 0)
# Processes, devices of each, samples of a device, accumulated passes: eight samples an update.
SHAPES = [(1, 1, 8, 1), (1, 4, 2, 1), (1, 8, 1, 1), (2, 2, 2, 1), (2, 2, 1, 2), (4, 2, 1, 1)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("alike")
    write_folder(place / "model")
    write_images(place / "pictures")
    return place


def learned(place, processes, devices, batch, accumulated):
    outputs = [place / f"{processes}x{devices}-{batch}-{accumulated}-{index}" for index in range(processes)]
    flags = (*STEPS, "--train_batch_size", batch, "--gradient_accumulation_steps", accumulated)
    if processes == 1:
        ended(start(place, outputs[0], *flags, devices=devices))
    else:
        assert devices == 2
        for process in start_several(place, outputs, *flags):
            ended(process)
    assert [output.exists() for output in outputs] == [True] + [False] * (processes - 1)
    return rows_of(outputs[0])


@pytest.fixture(scope="module")
def accumulated(place):
    return learned(place, 1, 1, 1, 8)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_depend_on_the_global_batch_alone(place, accumulated, shape):
    rows = learned(place, *shape)
    difference = np.abs(rows - accumulated).max()
    relative = np.linalg.norm(rows - accumulated) / np.linalg.norm(accumulated)
    print(f"\n{shape}: largest difference {difference:.1e}, relative norm {relative:.1e}")
    assert relative < 1e-6
