"""What runs compiled code: the thread team, the native step driver, calls from Python."""
