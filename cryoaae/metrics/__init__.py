"""Numbers about volumes: functions of arrays, no files."""
