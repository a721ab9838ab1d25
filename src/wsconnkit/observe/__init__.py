"""Turn what happens on connections into log lines and metrics."""
