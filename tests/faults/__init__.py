"""What Offnormal promises, under faults: `python -m tests.faults --help`.

doomed.py     the worker, made to die at a named point of its loop, or with a clock that jumps
proxy.py      a network that is slow, or stands still, or is cut
world.py      a stream, workers, swaps of models: what goes on while something fails
scenarios.py  what fails; topic_scenarios.py: topics that change; training_and_soak.py: trainings, and all for long
checker.py    what must have come of it, read with another client than the worker's
fuzz.py       hostile records, through a broker; fuzz_batches.py: hostile batches
guarded.py    memory that ends at a page that may not be touched; fuzz_guarded/ fuzzes the compiled loops in it
"""
