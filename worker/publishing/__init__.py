"""Everything that leaves as a record: events as CloudEvents, values of each vector, dead letters, labels."""
