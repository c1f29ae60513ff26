"""The pure ring: no clock, socket, file, thread, log or dice. Time comes from the data or is an argument."""
