"""Where rates come from: constants, tariffs, files, tables, and feeds on the web."""
