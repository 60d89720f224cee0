"""Everything that uses kafka-python's private API: the columnar client, and fixes for the plain client."""
