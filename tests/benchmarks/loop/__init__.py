"""The closed loop measured against labels, on a real Kafka, without manual intervention.

python -m tests.benchmarks.loop pairs A.npz B.npz ...   a plant that becomes another machine, for each pair
python -m tests.benchmarks.loop tep IDV.npz ...         a plant whose set points are scaled
python -m tests.benchmarks.loop poison FILE.npz ...     a third of the window are anomalies that nobody has labelled
python -m tests.benchmarks.loop week --days 7           some days of operation in fast-forward
"""
