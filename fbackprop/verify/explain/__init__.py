"""The search for the cause of a wrong gradient, by mutation of the right one."""
