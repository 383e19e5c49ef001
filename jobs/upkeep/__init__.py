"""Operation: doctor, backup, snapshots, deletion, metrics for Prometheus, webhooks."""
