"""Fuzzing of the compiled loops at the end of their memory: `python -m tests.faults.fuzz_guarded --help`.

target.py         one chunk's work on one kind of input, and the journal of what it works on
mutations.py      what becomes of a sound input
format_target.py  what the targets of formats share: the slow path beside the loop
targets.py        the targets by their names, each in a file of its own
__main__.py       the child, which tries the targets, and may die of one
parent.py         starts children, and says what they died of
"""
