"""Many files, answered a unit of work at a time by any number of processes."""
