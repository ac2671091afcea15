"""One module for each command of the command line; each has `main(args) -> exit status`."""
