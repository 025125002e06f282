"""The service under load, beside other servers and schedulers on the same engine."""
