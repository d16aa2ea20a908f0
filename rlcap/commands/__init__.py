"""The command line: one file a command. Torch and Ray are imported only inside the command that needs them."""
