"""Starting, stopping and watching the processes of a run; one process is a cluster of one."""
