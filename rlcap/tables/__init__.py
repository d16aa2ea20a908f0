"""Tables and JSON that users bring: what is read is checked for its type, and never turned into another one."""
