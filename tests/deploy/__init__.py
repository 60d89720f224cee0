"""The chart, the alert rules and the dashboard, without a cluster: rendered, checked, and run as processes."""
