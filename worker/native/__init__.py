"""The machine level: compiled loops, raw memory, the C allocator. Imports nothing else of ours."""
