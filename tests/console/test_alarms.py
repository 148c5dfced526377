"""What XLA says of slow compilations is left out of standard error, and nothing else is."""

import subprocess
import sys

ALARM = (
    "E1127 09:18:19.712071   11770 slow_operation_alarm.cc:73] \n"
    "********************************\n"
    "[Compiling module jit_f for CPU] Very slow compile? If you want to file a bug, run with envvar "
    "XLA_FLAGS=--xla_dump_to=/tmp/foo and attach the results.\n"
    "********************************\n"
)
END = ALARM.replace("Very slow compile? If you want to file a bug, run", "The operation took 3m12s. Run")
BESIDE = "W1127 09:18:19.712071   11770 other.cc:73] a line of XLA that counts\n"

CODE = f"""
import os, sys, time
from ti_flax.console.alarms import without_alarms

def write(text):
    os.write(2, text.encode())

write("before\\n")
with without_alarms():
    write({ALARM!r})
    write({BESIDE!r})
    print("by Python", file=sys.stderr, flush=True)
    write("no end of a line")
    write({END!r})
    {{last}}
write("after\\n")
"""


def run(last="pass", **options):
    code = CODE.replace("{last}", last)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


def test_alarms_are_left_out_and_all_else_comes_through_in_order():
    done = run()
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr == f"before\n{BESIDE}by Python\nno end of a lineafter\n"


def test_alarms_that_come_in_pieces_are_left_out():
    """XLA writes the head apart from the rest."""
    lines = ALARM.splitlines(keepends=True)
    pieces = [lines[0].rstrip("\n"), "\n" + lines[1], lines[2], lines[3]]
    done = run(f"for piece in {pieces!r}: write(piece); time.sleep(0.1)")
    assert done.stderr.endswith("no end of a lineafter\n")


def test_the_last_words_of_a_process_that_crashes_get_through():
    done = run("write('F1127 check failed\\n'); os.abort()")
    assert done.returncode < 0 and done.stderr.endswith("no end of a lineF1127 check failed\n")


def test_an_error_leaves_standard_error_as_it_was():
    done = run("raise ValueError('what went wrong')")
    assert done.returncode == 1 and done.stderr.endswith("ValueError: what went wrong\n")


def test_nothing_is_filtered_where_standard_error_is_closed():
    code = "import os; os.close(2)\nfrom ti_flax.console.alarms import without_alarms\n"
    code += "with without_alarms(): print('goes on')"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "goes on\n")
