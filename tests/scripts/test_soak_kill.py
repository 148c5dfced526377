"""A short soak: `python tests/support/soak_kill.py --runs 100` is the long one."""

import soak_kill


def test_killed_runs_end_with_the_same_bits(capsys):
    assert soak_kill.main(["--runs", "1", "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "runs 1 identical 1"
    assert sum(int(line.split()[2]) for line in lines if line.startswith("run ")) >= 1
