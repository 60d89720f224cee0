"""The job that makes the next model. Imports from worker, never the other way round."""
